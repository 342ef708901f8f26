"""The names of options: the renamed ones, and the option that a wrong name probably means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar

from .common import Common

Function = TypeVar("Function", bound=Callable[..., Any])

#: The present names of options by their old ones, which saved states may still have.
RENAMED: Mapping[str, str] = {"max_norm": "max_weight_norm", "max_norm_axis": "max_weight_norm_axis"}

#: The other meaning that users may have had in mind with an old name.
OTHER_MEANINGS: Mapping[str, str] = {"max_norm": "; to clip gradients, write 'clip_global_norm'"}

#: The note on an option for whoever has written a name of another kind.
FORMS: Mapping[str, str] = {"betas": ", a tuple of all", "clip_global_norm": ", the norm of all gradients together"}

#: Names of options in other libraries, in one word, and what they may be here: an optimizer or a schedule has one of
#: them.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("learningrate", "rate", "eta", "baselr", "initiallr"), ("lr", "lr0", "max_lr")),
    **dict.fromkeys(("stepsize", "alpha"), ("lr",)),
    **dict.fromkeys(("lr", "initialvalue", "initvalue", "initiallearningrate"), ("lr0", "max_lr", "value")),
    **dict.fromkeys(("maxlr", "peak", "peaklr", "peakvalue", "warmuptarget"), ("max_lr", "lr0")),
    **dict.fromkeys(
        ("tmax", "totaliters", "totalsteps", "decaysteps", "transitionsteps", "maxsteps", "numtrainingsteps"),
        ("total", "step_size", "T_0", "step_size_up"),
    ),
    **dict.fromkeys(("etamin", "minlr", "endlr", "endvalue", "endlearningrate"), ("floor", "end")),
    **dict.fromkeys(("warmupsteps", "warmupiters", "warmupepochs", "numwarmupsteps"), ("warmup",)),
    **dict.fromkeys(("startfactor", "warmupstartlr"), ("start",)),
    "firstdecaysteps": ("T_0",),
    "tmul": ("T_mult",),
    "epsilon": ("eps",),
    **dict.fromkeys(("beta1", "beta2", "b1", "b2"), ("betas",)),
    **dict.fromkeys(("rho", "decayrate"), ("alpha", "rho", "betas", "gamma")),
    **dict.fromkeys(("momentum", "mu"), ("momentum", "betas")),
    **dict.fromkeys(("wd", "decay", "l2", "l2reg", "l2regularization", "regl2", "weightdecayrate"), ("weight_decay",)),
    "decoupledweightdecay": ("decoupled",),
    **dict.fromkeys(("clipvalue", "maxgradvalue", "gradclipvalue"), ("clip_value",)),
    **dict.fromkeys(
        (
            "maxgradnorm",
            "maxgradientnorm",
            "maxglobalnorm",
            "globalclipnorm",
            "globalnorm",
            "gradclip",
            "gradclipnorm",
            "gradientclip",
            "gradientclipval",
            "gradientclipnorm",
            "clip",
            "clipgrad",
            "clipgradnorm",
            "clipbyglobalnorm",
            "clipping",
        ),
        ("clip_global_norm",),
    ),
    **dict.fromkeys(("gradientaccumulationsteps", "gradaccumsteps", "accumulationsteps"), ("accumulate_steps",)),
    **dict.fromkeys(("ema", "emamomentum", "useema"), ("ema_decay",)),
    **dict.fromkeys(("lossscale", "lossscalefactor"), ("grad_scale",)),
    **dict.fromkeys(("randomstate", "randomseed", "rng"), ("seed",)),
    **dict.fromkeys(("mudtype", "accumulatordtype"), ("state_dtype",)),
    "usenesterov": ("nesterov",),
}

#: How other libraries spell options that they have as attributes, for those who read them here.
SPELLINGS = (
    *(
        "learning_rate",
        "base_lr",
        "initial_lr",
        "epsilon",
        "beta1",
        "beta2",
        "beta_1",
        "beta_2",
        "b1",
        "b2",
        "mu",
        "decay",
    ),
    *("clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum", "loss_scale", "weight_decay_rate"),
    *("gradient_accumulation_steps", "max_grad_norm", "max_norm"),
)

#: Options of other libraries that there is no need for, in one word, and why.
NEEDLESS: Mapping[str, str] = {
    **dict.fromkeys(("foreach", "fused", "capturable", "differentiable", "jitcompile"), "each step is one fused pass"),
    **dict.fromkeys(("name", "device", "dtype"), "the arrays have theirs"),
    **dict.fromkeys(
        ("mask", "excludefromweightdecay"),
        'and give groups: fastopt.group_by(params, {"*.b": {"weight_decay": 0}, "*": {}})',
    ),
}

#: The least similarity of two names, from 0 to 1, if one may be meant for the other: of five letters one is wrong.
SIMILAR = 0.8

#: A shorter name may be an attribute of anyone's, such as lr0.
FEWEST_LETTERS = 4


def meant(name: str, options: Iterable[str]) -> str | None:
    """Return the option that a wrong name is probably meant for, if there is one."""
    known = {in_one_word(option): option for option in options}
    wanted = in_one_word(RENAMED.get(name, name))
    synonyms = [option for option in SYNONYMS.get(wanted, ()) if option in known.values()]
    if synonyms and wanted not in known:
        return synonyms[0]
    cutoff = SIMILAR if len(wanted) >= FEWEST_LETTERS else 1.0
    return next((known[word] for word in get_close_matches(wanted, known, 1, cutoff)), None)


def in_one_word(name: str) -> str:
    return name.replace("_", "").lower()


def hints(unknown: Iterable[str], options: Iterable[str]) -> str:
    """Return what to write instead of names that no option has, as the end of a sentence."""
    options, found = list(options), []
    for name in unknown:
        option, needless = meant(name, options), NEEDLESS.get(in_one_word(name))
        if needless is not None:
            found.append(f"; leave {name!r} out, {needless}")
        elif option is not None:
            form = "" if in_one_word(name) == in_one_word(option) else FORMS.get(option, "")
            found.append(f"; for {name!r} write {option!r}{form}{OTHER_MEANINGS.get(name, '')}")
    return "".join(found)


def check_keywords(optimizer: str, unknown: Iterable[str], options: Iterable[str]) -> None:
    """Raise if an optimizer was given keywords that it does not know, besides these options and the common ones.

    Raises
    ------
    TypeError
        As Python raises it, but says what to write.
    """
    for name in unknown:
        own = list(options)
        advice = hints([name], [*own, *Common.__annotations__]) or (
            f"; its own options are {own}, and help({optimizer}) has all"
        )
        raise TypeError(f"{optimizer}() got an unexpected keyword argument {name!r}{advice}")


def with_advice(of_others: Mapping[str, str], name: str = "") -> Callable[[Function], Function]:
    """Make a function's TypeError for keywords that it does not know say what to write.

    Parameters
    ----------
    of_others : dict
        What to do instead, by names of another library.
    name : str
        What errors call the function; "": its own name.
    """

    def decorate(function: Function) -> Function:
        known, title = inspect.signature(function).parameters, name or function.__name__

        @wraps(function)
        def checked(*arguments: Any, **options: Any) -> Any:
            for keyword in options.keys() - known.keys():
                advice = f"; {of_others[keyword]}" if keyword in of_others else hints([keyword], known)
                raise TypeError(f"{title}() got an unexpected keyword argument {keyword!r}{advice}")
            return function(*arguments, **options)

        return checked  # type: ignore[return-value]

    return decorate
