"""Pickling and deep-copying an optimizer together with the arrays that it changes.

An array that the model has too is pickled once, so that after loading both have the very same one. But an optimizer
that comes back alone would change arrays that nobody else has. So what is loaded first sleeps: it holds its arrays by
their containers alone, and wakes when it is first used. If nobody else has any of them by then, that is an error.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from ..arrays.structure import Branch, is_container
from ..options.common import StepOptions
from ..options.ranges import Group
from . import state_dict
from .adding import AddingHooks, add_branch
from .groups import Follower
from .params_in_state import check_own_values
from .parts import Parts
from .turns import Kind
from .whole_options import SAVED, WholeOptions

#: The class in which the optimizers of a class sleep.
CLASSES: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


class Picklable(AddingHooks, state_dict.Saved, Protocol):
    """An optimizer, as far as pickling needs it."""

    parts: Parts

    def of_group(self, group: Group) -> Any: ...
    def make_parts(self, params: Any, options: StepOptions, whole: WholeOptions, backend: str | None) -> Parts: ...
    def attributes_to_pickle(self) -> dict[str, Any]: ...
    def set_pickled(self, attributes: Mapping[str, Any]) -> None: ...


def reduce_value(opt: Any) -> tuple[Any, ...]:
    """Return what ``__reduce_ex__`` of an optimizer returns.

    Raises
    ------
    TypeError
        For arrays on a GPU.
    """
    if not opt.parts.backend.on_host:
        raise TypeError(
            f"{type(opt).__name__}: an optimizer of arrays on a GPU can't be copied or pickled; use fastopt.save and "
            "fastopt.load"
        )
    return sleeper, (type(opt),), opt.parts.turns.run("pickle", Kind.READER, contents_of, opt)


def contents_of(opt: Picklable) -> dict[str, Any]:
    """Return all that an optimizer is made of again."""
    check_own_values(opt.parts, "pickle")
    saved = state_dict.of(opt)  # copies: what is loaded must not have the parameters twice
    parts = opt.parts
    parameters, groups = parts.parameters, parts.groups.param_groups
    return {
        "attributes": opt.attributes_to_pickle(),
        "containers": [source.container for source in parameters.root.sources],
        "form": (parameters.is_single, parameters.is_grouped, parameters.root.is_dict),
        "groups": [{name: value for name, value in group.items() if name != "params"} for group in groups],
        "group_of": parameters.group_of.tolist(),
        "copies": parameters.copies,
        "bounds": parameters.bounds,
        "options": parts.options,
        "whole": {name: getattr(parts.whole, name) for name in SAVED},
        "saved": {**saved, "param_groups": []},
        "frozen": parameters.frozen,
    }


def sleeper(cls: type) -> Any:
    """Return an optimizer that sleeps; :meth:`Sleeper.__setstate__` gives it its contents."""
    if cls not in CLASSES:
        CLASSES[cls] = type(cls.__name__, (Sleeper, cls), {"__module__": cls.__module__, "kind": weakref.ref(cls)})
    return object.__new__(CLASSES[cls])


class Sleeper:
    """An optimizer that was loaded, and not used since."""

    kind: Any

    def __setstate__(self, contents: dict[str, Any]) -> None:
        object.__setattr__(self, "contents", contents)
        object.__setattr__(self, "followers", [])

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__setstate__"):
            return object.__getattribute__(self, name)
        wake(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        wake(self)
        setattr(self, name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, loaded and not used yet>"


def wake(opt: Any) -> None:
    """Make an optimizer that sleeps what it was.

    Raises
    ------
    TypeError
        If nobody else has its arrays.
    """
    cls = type(opt).kind()
    contents, followers = (object.__getattribute__(opt, name) for name in ("contents", "followers"))
    if not any(is_held(contents["containers"], k) for k in range(len(contents["containers"]))):
        raise TypeError(
            f"{cls.__name__}: an optimizer can't be copied or pickled alone, since it changes your own arrays, and "
            "nobody has these now; pickle or deep-copy it together with them, in one object: (model, optimizer). With "
            "joblib each mention of an array becomes another one: give the optimizer the very dict or list that the "
            "model has. Or build an optimizer for the other arrays and other.load_state_dict(opt.state_dict()), or use "
            "fastopt.save and fastopt.load"
        )
    object.__setattr__(opt, "__class__", cls)
    try:
        rebuild(opt, contents)
    except BaseException:
        object.__setattr__(opt, "__class__", CLASSES[cls])
        raise
    del opt.contents, opt.followers
    opt.parts.groups.followers.update(driver for driver in (follower() for follower in followers) if driver is not None)


def rebuild(opt: Picklable, contents: Mapping[str, Any]) -> None:
    """Make the parts of an optimizer of the contents that were pickled."""
    opt.set_pickled(contents["attributes"])
    is_single, is_grouped, is_dict = contents["form"]
    options, asked_backend = contents["options"], contents["attributes"]["_asked_backend"]
    whole = WholeOptions(**contents["whole"], nonfinite=options.nonfinite)
    opt.parts = parts = opt.make_parts({} if is_dict else [], options, whole, asked_backend)
    branch = Branch({} if is_dict else [])
    for container in contents["containers"][1:]:  # the first one is that of the root itself
        branch.merge(Branch(container, offset=0 if is_dict else len(branch.keys)))
    add_branch(opt, parts, branch, contents["groups"], contents["group_of"], asked_backend)
    parts.parameters.is_single, parts.parameters.is_grouped = is_single, is_grouped
    copies = contents["copies"]
    if any(copy is not None for copy in copies):
        parts.parameters.take_copies(parts.parameters.structure(copies), parts.backend)
    parts.parameters.bounds = contents["bounds"]
    saved = {**contents["saved"], "frozen": sorted(contents["frozen"])}
    planned, _ = state_dict.plan(opt, saved, True, [], True, False)
    state_dict.carry_out(opt, planned)
    parts.parameters.frozen = contents["frozen"]


def is_held(holder: Any, key: Any) -> bool:
    """Return whether anybody but its holder has an object, or anything in it."""
    value = holder[key]
    if value is None or (is_container(value) and not value):
        return False  # there is one None and one empty tuple, which all have
    keys = [] if not is_container(value) else list(value) if isinstance(value, Mapping) else range(len(value))
    if any(is_held(value, each) for each in keys):
        return True
    del value
    return references(holder, key) > references([object()], 0)


def references(holder: Any, key: Any) -> int:
    """Return how many references there are to what a holder has at a key."""
    return sys.getrefcount(holder[key])


def follow(opt: Any, driver: Follower) -> None:
    """Have a driver that was loaded follow its optimizer, which may sleep."""
    if isinstance(opt, Sleeper):
        object.__getattribute__(opt, "followers").append(weakref.ref(driver))
    else:
        opt.parts.groups.followers.add(driver)
