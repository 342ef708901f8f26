"""An optimizer as an object of Python: its attributes, which options are not, its ``repr``, and how it is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..options.common import Common
from ..options.names import OTHER_MEANINGS, SPELLINGS, meant
from ..options.ranges import RANGES, Group
from .documentation import Documentation, Signature
from .hooks import Hooks
from .parts import Parts
from .representation import representation
from .saving import Saving

if TYPE_CHECKING:
    from .state_dict import Saved

#: The options of a whole optimizer that are attributes too.
ATTRIBUTES = ("lr", "clip_global_norm", "skip_above", "grad_scale", "seed")

HOOKS = frozenset(name for name in vars(Hooks) if not name.startswith("__"))


class Elsewhere:
    """The error of a method of another library, which says what to write here."""

    def __init__(self, advice: str) -> None:
        self.advice = advice

    def __set_name__(self, cls: type, name: str) -> None:
        self.name = name

    def __get__(self, opt: Any, kind: type) -> Any:
        raise AttributeError(f"{kind.__name__} has no {self.name!r}: {self.advice}")


class Attributes(Hooks):
    """The attributes of an optimizer.

    An attribute with the name of an option would have no effect, so setting it is an error that says what to write. For
    fastopt's own classes, this is so for names of other optimizers' options and for near misses too; a subclass from
    elsewhere may have any such attributes of its own. Whatever the class or the instance has already can be set.
    """

    defaults: Group
    parts: Parts

    zero_grad = Elsewhere("gradients are given to each step; leave it out, or build with zero_grads=True to clear them")
    apply_gradients = Elsewhere("write opt.step(grads)")
    apply = Elsewhere("write opt.step(grads)")
    minimize = Elsewhere(
        "a step takes gradients: write opt.step(grads); fastopt.minimize(function, params) steps until it converges"
    )
    init = Elsewhere("the optimizer has its parameters and its state; write opt.step(grads)")
    get_last_lr = Elsewhere("read opt.lr, or the lr of what step returns")
    get_lr = Elsewhere("read opt.lr")
    set_lr = Elsewhere("write opt.lr = 1e-4")
    exclude_from_weight_decay = Elsewhere(
        'give groups: fastopt.group_by(params, {"*.b": {"weight_decay": 0}, "*": {}})'
    )
    save = Elsewhere("write fastopt.save(path, opt)")
    load = Elsewhere("write fastopt.load(path).restore(opt)")
    restore = Elsewhere("write fastopt.load(path).restore(opt)")
    parameters = Elsewhere("read opt.params")
    trainable_variables = Elsewhere("read opt.params")
    variables = Elsewhere("read opt.state")
    iterations = Elsewhere("read opt.step_count")

    __signature__ = Signature()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Documentation.take(cls)
        for name in arguments_of(cls):
            if not hasattr(cls, name):
                setattr(cls, name, Absent(name))

    def __setattr__(self, name: str, value: Any) -> None:
        # Without vars(): once an instance has been asked for its dict, Python reads its attributes more slowly.
        if not (name.startswith("_") or hasattr(type(self), name) or hasattr(self, name)):
            check_no_option(self, name, value)
        super().__setattr__(name, value)
        follow_hook(self, name)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        follow_hook(self, name)

    def __dir__(self) -> list[str]:
        """Return the names of attributes, without those whose reading is an error that says what to write."""
        defined: dict[str, Any] = {}
        for cls in reversed(type(self).__mro__):
            defined |= vars(cls)
        return [name for name in super().__dir__() if not isinstance(defined.get(name), (Absent, Elsewhere))]

    def __repr__(self) -> str:
        return representation(self) if hasattr(self, "parts") else super().__repr__()

    def saving(self: Saved) -> Saving:
        """Return what :func:`fastopt.save` and :meth:`fastopt.Checkpoint.restore` use."""
        from .state_dict import SavingOfOptimizer

        return SavingOfOptimizer(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Have pickle and deepcopy take an optimizer together with its arrays."""
        from .pickling import reduce_value

        return reduce_value(self)

    def attributes_to_pickle(self) -> dict[str, Any]:
        """Return the attributes but the parts, in a form that pickle takes."""
        return {name: value for name, value in vars(self).items() if name != "parts"}

    def set_pickled(self, attributes: Mapping[str, Any]) -> None:
        """Set the attributes that :meth:`attributes_to_pickle` has returned."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __copy__(self) -> NoReturn:
        """Refuse what copy would do: two optimizers would change the same arrays, each with its own state."""
        raise TypeError(
            f"{type(self).__name__}: an optimizer can't be copied, since the copy would change the same arrays; "
            "copy.deepcopy((model, optimizer)) copies both"
        )


def follow_hook(opt: Attributes, name: str) -> None:
    """Make the next step ask the hooks again, if this attribute is one of them."""
    if name in HOOKS and hasattr(opt, "parts"):
        opt.parts.forget_workspace()


class Absent:
    """The error of an option that is read as an attribute. An instance's own attribute of this name goes before it.

    It costs other attributes nothing, as ``__getattr__`` would.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, opt: Attributes | None, kind: type) -> Any:
        if opt is None or self.name not in options_of(opt):
            raise AttributeError(f"{kind.__name__!r} has no attribute {self.name!r}")
        place = place_of(opt, self.name)
        advice = f"read {place}" if place else "it is fixed when the optimizer is built"
        raise AttributeError(f"{kind.__name__}: {self.name!r} is an option, not an attribute; {advice}")


class Misnamed(Absent):
    """The error of another library's name of an option that is read as an attribute."""

    def __get__(self, opt: Attributes | None, kind: type) -> Any:
        option = None if opt is None or self.name in options_of(opt) else meant(self.name, options_of(opt))
        if opt is None or option is None:
            return super().__get__(opt, kind)
        place = place_of(opt, option)
        advice = f"read {place}" if place else f"{option!r} is fixed when the optimizer is built"
        raise AttributeError(
            f"{kind.__name__}: {self.name!r} is neither an attribute nor an option; {advice}"
            f"{OTHER_MEANINGS.get(self.name, '')}"
        )


for spelling in SPELLINGS:
    setattr(Attributes, spelling, Misnamed(spelling))


def arguments_of(cls: type) -> Sequence[str]:
    """Return the names of the arguments that a class itself takes."""
    code = getattr(vars(cls).get("__init__"), "__code__", None)
    return () if code is None else code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


def options_of(opt: Attributes) -> list[str]:
    """Return the names of all options, as far as they are known: a subclass may set attributes before."""
    return [*Common.__annotations__, *getattr(opt, "defaults", ())]


def place_of(opt: Attributes, option: str) -> str | None:
    """Return where an option is read and written; None if it is fixed when the optimizer is built."""
    if option in ATTRIBUTES:
        return f"opt.{option}"
    if option in getattr(opt, "defaults", ()):
        return f'opt.param_groups[{0 if len(opt.parts.groups.param_groups) == 1 else "k"}]["{option}"]'
    return None


def check_no_option(opt: Attributes, name: str, value: Any) -> None:
    """Raise if this attribute would be an option, or one of fastopt's classes would get one that is nearly an option.

    Raises
    ------
    AttributeError
        Says what to write.
    """
    if not hasattr(opt, "parts"):
        return
    options, cls = options_of(opt), type(opt)
    is_ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    option = name if name in options else meant(name, [*options, *RANGES]) if is_ours else None
    if option is None:
        return
    place = place_of(opt, option)
    if option not in options:
        text = f"{cls.__name__} has neither such an attribute nor such an option; its options are {options}"
    else:
        found = "is an option, not an attribute" if option == name else "is neither an attribute nor an option"
        advice = f"write {place} = {value!r:.80}" if place else f"give {option!r} to {cls.__name__} when you build it"
        text = f"{name!r} {found}; {advice}{OTHER_MEANINGS.get(name, '')}"
    raise AttributeError(f"{name}={value!r:.80}: {text}")
