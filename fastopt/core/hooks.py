"""The hooks: all that an optimizer may define."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array
from ..arrays.memory import shown
from ..backends.table import HyperRow
from ..options.ranges import Allowed, Group
from .option_set import OptionSet
from .step import Step
from .workspace import Workspace

#: Later than any step.
NEVER = 2**63 - 1

Hyper = TypeVar("Hyper", bound=Callable[..., tuple[float, ...]])

#: By function, and not as its attribute, which ``functools.wraps`` would give to another one.
FIRST_OF_SAME: dict[Any, int] = {}


def same_from(step: int) -> Callable[[Hyper], Hyper]:
    """Declare that a ``hyper`` returns the same scalars for the same options at this step and all later ones."""

    def declare(hyper: Hyper) -> Hyper:
        FIRST_OF_SAME[hyper] = step
        return hyper

    return declare


def first_of_same(hyper: Callable[..., Any]) -> int:
    """Return the step that was declared for a method; :data:`NEVER` if there is none."""
    return FIRST_OF_SAME.get(getattr(hyper, "__func__", hyper), NEVER)


def is_default(hooks: Hooks, name: str) -> bool:
    """Return whether neither the class of an optimizer nor the instance defines this hook."""
    return getattr(getattr(hooks, name), "__func__", None) is getattr(Hooks, name)


class Hooks:
    """The methods and attributes that define an optimizer.

    Most optimizers define :meth:`rule` and :meth:`hyper` alone. The step, the slots and the groups call these methods.
    Override no other method of :class:`fastopt.Optimizer`. A hook or a schedule calls nothing that waits for a
    step or is refused during one, such as ``state_dict`` or ``freeze``: of its own optimizer it is refused, and two
    optimizers in two threads whose schedules read each other would wait for ever.

    A step checks what they return before it changes anything; the errors name the hook. :meth:`update` is not
    checked, since it makes the changes: its author sees to it that what it does to the arrays is right.
    """

    #: The ranges of the options that are this optimizer's own.
    ranges: ClassVar[Mapping[str, Allowed]] = {}

    #: The options around the rule that this optimizer does not take, and why.
    refused: ClassVar[Mapping[str, str]] = {}

    #: The slots that are never negative: 8 bits store them by the root map.
    non_negative: ClassVar[frozenset[str]] = frozenset({"v", "v_max", "v_hat_max", "sum", "u", "s"})

    #: The slots that ``state_dtype`` leaves in the compute dtype: they must be right to the last bit.
    exact: ClassVar[frozenset[str]] = frozenset()

    #: The slots that begin as copies of the parameter; they stay in the compute dtype. ``reload_params`` writes them.
    copied: ClassVar[frozenset[str]] = frozenset()

    #: The numbers of a whole array that its state keeps, and their values before its first step.
    numbers: ClassVar[Mapping[str, float]] = {}

    #: The numbers that the backend computes; on a GPU they stay there.
    measured: ClassVar[frozenset[str]] = frozenset()

    #: The rules that a step runs besides that of :meth:`rule`; their slots are the first of its slots.
    further_rules: ClassVar[Sequence[Rule]] = ()

    #: The options that differ for arrays with a :class:`fastopt.RowSparse` gradient; None: such gradients are refused.
    row_sparse_options: ClassVar[Mapping[str, Any] | None] = None

    #: Whether arrays that shared a row before a step share one after it.
    rows_stay: ClassVar[bool] = True

    #: Whether a step of slices of the arrays is one of the arrays: :meth:`update` needs nothing of whole arrays but
    #: ``table.sum_products``. A class says so for the ``update`` that it defines.
    takes_slices: ClassVar[bool] = False

    #: Whether the optimizer runs on a GPU.
    runs_on_gpu: ClassVar[bool] = True

    #: The options that a group may have. The optimizer sets it.
    option_set: OptionSet

    def of_group(self, group: Group) -> Hooks:
        """Return the hooks of a group with these options: these hooks, unless several optimizers share the step."""
        return self

    def each(self) -> Sequence[Hooks]:
        """Return the hooks of all groups, each once."""
        return (self,)

    def rule(self, group: Group) -> Rule:
        """Return the rule of a group: one of :mod:`fastopt.rules`, or a function that is defined like them."""
        raise NotImplementedError

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        """Return the rule's scalars, in double precision, for arrays of which this is step number ``step``, from 1.

        ``group`` has the options of the group and the ``numbers`` of the array. A step like the last one skips the call
        where ``same_from`` allows it.
        """
        raise NotImplementedError

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        """Return the row of hyperparameters that was made from these options, changed where this optimizer differs."""
        return row

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """Return arrays of one value for each array; arrays that differ in one do not share a row.

        ``numbers`` has the shape (numbers, arrays).
        """
        return ()

    def check_param(self, name: str, array: Any) -> None:
        """Raise if an array can't be a parameter of this optimizer."""

    def check_row_sparse(self, name: str) -> None:
        """Raise if this optimizer can't take a row-sparse gradient of the array of this name."""
        if self.row_sparse_options is None:
            raise TypeError(
                f"grads: {name!r} is row-sparse, which {type(self).__name__} does not take (SGD, Adagrad, Adam, AdamW, "
                "SparseAdam and FTRL do); give a dense gradient"
            )

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]:
        """Return the names of the slots of an array whose group has this rule."""
        return rules.slots(rule)

    def slot_shape(self, slot: str, param: Array) -> tuple[int, ...]:
        """Return the shape of a slot; one that differs from the parameter's begins as zeros."""
        return param.shape

    def initial_slot(self, group: Group, slot: str) -> float:
        """Return the number that a slot is filled with before the first step."""
        return 0.0

    def new_slot(self, group: Group, slot: str, param: Array) -> Array:
        """Return a slot of an array as it is before the array's first step.

        Slots in :attr:`copied` are copied again if the parameter was written before that step.
        """
        raise NotImplementedError

    def check_step(self) -> None:
        """Raise if no step can be made at the moment."""

    def prepare(self, workspace: Workspace) -> None:
        """Put into ``workspace.own`` whatever :meth:`update` needs as long as the table lives."""

    def update(self, step: Step) -> None:
        """Change the parameters and slots. An elementwise optimizer leaves this as it is: one pass over the table."""
        step.table.step(step.hyper_rows)

    def extra_state(self) -> dict[str, Any]:
        """Return further state that this optimizer needs to go on, as plain Python and arrays."""
        return {}

    def check_extra_state(self, extra: Mapping[str, Any]) -> list[str]:
        """Return one sentence for each thing that is wrong with such a dict."""
        wanted = list(self.extra_state())
        return [] if set(extra) == set(wanted) else [f"extra: expected the entries {wanted}, got {shown(list(extra))}"]

    def load_extra_state(self, extra: Mapping[str, Any]) -> None:
        """Load a dict in which :meth:`check_extra_state` found nothing wrong."""
