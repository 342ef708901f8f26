"""The names of options: the renamed ones, and the option that a wrong name probably means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from .common import Common

#: The present names of options by their old ones, which saved states may still have.
RENAMED: Mapping[str, str] = {"max_norm": "max_weight_norm", "max_norm_axis": "max_weight_norm_axis"}

#: The other meaning that users may have had in mind with an old name.
OTHER_MEANINGS: Mapping[str, str] = {"max_norm": "; to clip gradients, write 'clip_global_norm'"}

#: Names of options in other libraries, in one word.
SYNONYMS: Mapping[str, str] = {"learningrate": "lr", "epsilon": "eps", "beta1": "betas", "beta2": "betas"}

#: The least similarity of two names, from 0 to 1, if one may be meant for the other: of five letters one is wrong.
SIMILAR = 0.8

#: A shorter name may be an attribute of anyone's, such as lr0.
FEWEST_LETTERS = 4


def meant(name: str, options: Iterable[str]) -> str | None:
    """Return the option that a wrong name is probably meant for, if there is one."""
    known = {in_one_word(option): option for option in options}
    wanted = in_one_word(RENAMED.get(name, name))
    wanted = SYNONYMS.get(wanted, wanted)
    cutoff = SIMILAR if len(wanted) >= FEWEST_LETTERS else 1.0
    return next((known[word] for word in get_close_matches(wanted, known, 1, cutoff)), None)


def in_one_word(name: str) -> str:
    return name.replace("_", "").lower()


def hints(unknown: Iterable[str], options: Iterable[str]) -> str:
    """Return what to write instead of names that no option has, as the end of a sentence."""
    found = [(name, meant(name, options)) for name in unknown]
    return "".join(
        f"; for {name!r} write {option!r}{OTHER_MEANINGS.get(name, '')}" for name, option in found if option is not None
    )


def check_keywords(optimizer: str, unknown: Iterable[str], options: Iterable[str]) -> None:
    """Raise if an optimizer was given keywords that it does not know, besides these options and the common ones.

    Raises
    ------
    TypeError
        As Python raises it, but says what to write.
    """
    for name in unknown:
        known = [*options, *Common.__annotations__]
        raise TypeError(f"{optimizer}() got an unexpected keyword argument {name!r}{hints([name], known)}")
