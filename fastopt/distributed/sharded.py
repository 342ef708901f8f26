"""An optimizer whose state is shared out among the ranks of a communicator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..arithmetic.dither import SCALE_BLOCK
from ..arrays.dtypes import Array
from ..core.hooks import Hooks
from ..core.optimizer import Optimizer
from ..core.parameters import Addition, Parameters
from ..core.representation import DEFAULTS, default_options, representation
from ..core.results import StepInfo
from ..core.workspace import Workspace
from ..options.bounds import split
from ..options.group_by import Grouped, is_group
from ..options.ranges import Group
from . import agreement, slices
from .building import check_wire_dtype, whole_optimizer
from .gradients import GradientsOfRanks, half_dtype
from .layout import Bucket, bucket_of_each
from .meetings import Meetings, checked_together
from .parameters import Gather
from .payload import gradient_payload
from .ranks import Ranks
from .state import SharedState, further_methods
from .sums import SumsOfRanks


class Dropped(RuntimeError):
    """A rank drops a step instead of making it."""


class Sharded(SharedState):
    """An optimizer whose state is shared out among the ranks of a communicator (ZeRO, stage 1).

    Every rank has all parameters. It owns one slice of each array: it has the slots of this slice alone, and steps it
    alone. For the gradients ``g[r]`` of the ranks and the slice from ``b`` to ``e``, a step of its owner is::

        g = ((g[0][b:e] + g[1][b:e]) + g[2][b:e]) + ...     in rank order, in the compute dtype
        p[b:e], slots = step of the optimizer with g
        every rank gets p[b:e]

    ``Sharded(fastopt.AdamW, params, comm, lr=0.1)`` returns a :class:`fastopt.AdamW` with the methods and options that
    it has in one process. Every rank builds it with the same values, and makes the same calls in the same order.

    Parameters
    ----------
    optimizer : type
        The class of an optimizer: one of fastopt's, a subclass of your own, or one of :func:`fastopt.optimizer`.
    params : array or structure of arrays
        As for the optimizer. Their values must be equal on all ranks.
    comm : mpi4py.MPI.Intracomm
        The ranks, such as ``MPI.COMM_WORLD``.
    exact : bool, default False
        Whether a step is given micro-batches, ``step([g1, g2, ...])``. Rank ``r`` has the numbers ``r, r + size, ...``
        of all ranks' micro-batches. They are added in the order of their numbers, and the step applies their mean, with
        the bits of ``accumulate_steps`` in one process, for any number of ranks. Unlike there, ``nonfinite="skip"``
        skips the whole step for one bad micro-batch, on all ranks.
    reduction : {"sum", "mean"}, default "sum"
        Whether a step applies the sum of the ranks' gradients, or the sum divided by the number of ranks.
    wire_dtype : {"float16", "bfloat16"}, optional
        The dtype in which gradients are sent; they are added in float32. None: the compute dtype.
    bucket_bytes : int >= 1, default 2**25
        Arrays of which each rank owns less than 512 KB are exchanged together, in buckets of at most this many bytes;
        so are arrays that can't be cut. Others are exchanged alone, in pieces of about so many bytes.
    **options
        The optimizer's own options, and those that every optimizer takes.

    Attributes
    ----------
    params : array or structure of arrays
        The very arrays that were given; ``param_groups`` has them too.
    slices : dict
        For the name of each array, where the part that this rank owns begins and ends, in elements.
    state : dict
        For the name of each array, the slots of the part that this rank owns.

    Raises
    ------
    TypeError, ValueError
        As the optimizer raises; and on every rank if the ranks differ in anything that must be equal: the text names
        it, and the values of the ranks.
    RankError
        If the arguments of another rank are wrong: its own error has the reason.
    ImportError
        Without mpi4py; with bfloat16 on the wire, without ml_dtypes.

    Notes
    -----
    Slices are cut at multiples of 4,096 elements from the beginning of each array. So norms, which are added in blocks
    of that length, have the bits of one process: clipping, LARS, LAMB, Prodigy's ``d`` and SWATS, and the counts behind
    ``nonfinite``. All ranks decide alike whether a step is skipped.

    One rank owns all of an array that can't be cut, and another one the next: those of Muon and Adafactor, matrices
    with ``max_weight_norm``, arrays in Fortran order, and all arrays of an optimizer of your own whose ``update`` does
    not say that it ``takes_slices``. The other ranks have an empty array in its place.

    Refused: :class:`fastopt.Combined` (make one of each optimizer), row-sparse gradients, arrays on a GPU, ``pickle``
    and ``copy``.

    A step begins with a meeting of the ranks. If one has a wrong argument, or another step count, option, schedule or
    frozen array than the others, all raise and nothing has changed anywhere. Schedules are evaluated once more for it.

    Source: Rajbhandari et al., arXiv 1910.02054.

    Examples
    --------
    With the communicator of one rank, which needs no ``mpiexec``:

    >>> import numpy as np, fastopt
    >>> from mpi4py import MPI
    >>> from fastopt.distributed import Sharded
    >>> params = {"W": np.ones((3, 2)), "b": np.zeros(2)}
    >>> opt = Sharded(fastopt.AdamW, params, MPI.COMM_SELF, lr=0.5, weight_decay=0.0)
    >>> isinstance(opt, fastopt.AdamW)
    True
    >>> opt.step({"W": np.ones((3, 2)), "b": np.ones(2)}).step
    1
    >>> params["b"].round(6), opt.slices
    (array([-0.5, -0.5]), {'W': (0, 6), 'b': (0, 2)})
    """

    ranks: Ranks
    gradients: GradientsOfRanks
    #: The arrays and their structure, as the user gave them; ``parts.parameters`` has the parts of this rank.
    whole: Parameters

    def __new__(cls, optimizer: type[Optimizer], *arguments: Any, **options: Any) -> Sharded:
        if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
            raise TypeError(
                f"optimizer: expected a subclass of fastopt.Optimizer, such as fastopt.AdamW, got {optimizer!r:.80}; "
                "its options are arguments of Sharded"
            )
        if issubclass(optimizer, Sharded):
            raise TypeError(f"optimizer: {optimizer.__name__} is sharded already; give the class that it is made of")
        if optimizer.of_group is not Hooks.of_group:
            raise TypeError(
                f"{optimizer.__name__}: several optimizers share its step, which is not done over several ranks yet; "
                "make a Sharded of each for its own parameters"
            )
        made: Sharded = object.__new__(class_of(optimizer))
        return made

    def __init__(
        self,
        optimizer: type[Optimizer],
        params: Any,
        comm: Any,
        *,
        exact: bool = False,
        reduction: str = "sum",
        wire_dtype: str | None = None,
        bucket_bytes: int = 2**25,
        **options: Any,
    ) -> None:
        self.begin(Ranks(comm, optimizer.__name__))
        ranks = self.ranks
        arguments = {"exact": exact, "reduction": reduction, "wire_dtype": wire_dtype, "bucket_bytes": bucket_bytes}
        model = checked_together(ranks, lambda: whole_optimizer(optimizer, params, arguments, options))
        parts = model.parts
        self.whole = whole = parts.parameters
        ranks.agree(
            {
                "optimizer": f"{optimizer.__module__}.{optimizer.__qualname__}",
                **arguments,
                **agreement.forms_of(whole.names, whole.arrays),
                **agreement.forms_of(whole.names, whole.copies, "copy_to"),
                **agreement.bounds_of(whole.names, whole.bounds),
                **agreement.options_of(parts),
            }
        )
        agreement.check_same_values(ranks, whole.names, whole.arrays)
        self.takes_micro_batches, self.reduction, self.wire_dtype = exact, reduction, wire_dtype
        self.bucket_bytes = bucket_bytes
        # Ranks may be at different exchanges of gradients when they meet.
        self.ranks_of_gradients = Ranks(comm)
        self.buckets: list[Bucket] = []
        self.vectors: list[Array] = []
        self.are_cut: list[bool] = []
        #: Where the part of each array that this rank owns begins and ends.
        self.slices: dict[str, tuple[int, int]] = {}
        self.cuts_arrays = ranks.size > 1 and slices.takes_slices(model)
        of_arrays = [parts.groups.checked[k].values for k in whole.group_of.tolist()]
        share = self.share(whole.names, whole.arrays, of_arrays)
        if ranks.size > 1:
            groups = [{name: value for name, value in each.items() if name != "params"} for each in model.param_groups]
            params = Grouped(share.parts, groups, dict(zip(whole.names, whole.group_of.tolist(), strict=True)))
            options.pop("copy_to", None)
            if "bounds" in options:
                options["bounds"] = split(options["bounds"])[0]
        super().__init__(params, **options)
        self.take_share(share)

    def share(self, names: Sequence[str], arrays: Sequence[Array], of_arrays: Sequence[Group]) -> slices.Share:
        """Return how further arrays are shared out; ``of_arrays`` has the options of each one's group."""
        are_cut = [
            slices.can_cut(array.ndim, array.flags.c_contiguous, group, self.cuts_arrays)
            for array, group in zip(arrays, of_arrays, strict=True)
        ]
        return slices.share_of(names, arrays, are_cut, self.ranks, self.bucket_bytes, self.buckets)

    def take_share(self, share: slices.Share) -> None:
        """Take over how the arrays that were added are shared out; the groups show whole arrays."""
        self.buckets += share.buckets
        self.vectors += share.vectors
        self.are_cut += share.are_cut
        self.slices.update(share.slices)
        counts = [
            [bucket.slice_of(i, rank) for i, bucket in bucket_of_each(self.buckets).items()]
            for rank in range(self.ranks.size)
        ]
        self.sums = SumsOfRanks(self.ranks, np.array(counts) @ [-1, 1])
        parameters, whole = self.parts.parameters, self.whole
        parameters.whole_sizes = [array.size for array in whole.arrays]
        parameters.bounds = list(map(slices.bounds_of_part, whole.bounds, self.slices.values(), self.are_cut))
        for k, (group, checked) in enumerate(zip(self.param_groups, self.parts.groups.checked, strict=True)):
            arrays = tuple(whole.arrays[i] for i in np.flatnonzero(parameters.group_of == k))
            group["params"] = checked.options["params"] = checked.values["params"] = arrays
        backend = self.parts.backend
        self.gradients = GradientsOfRanks(
            self.ranks_of_gradients,
            backend,
            whole,
            self.buckets,
            exact=self.takes_micro_batches,
            wire_dtype=None if self.wire_dtype is None else half_dtype(self.wire_dtype),
            piece_bytes=self.bucket_bytes,
            are_cleared=self.parts.options.zero_grads,
            scale=self.parts.whole.loss_scale,
        )
        self.ranks.free_persistent()
        self.gather = Gather(self.ranks, backend, self.buckets, self.vectors)
        self.sums_of_parts = [
            slices.in_form_of(part, self.gradients.slice_of(i)) for i, part in enumerate(parameters.arrays)
        ]
        self.all_sums = parameters.structure(self.sums_of_parts)
        #: The numbers of the arrays that have a copy.
        self.with_copy = [i for i, copy in enumerate(whole.copies) if copy is not None]
        self.gradients.payload = gradient_payload(self.ranks, self.gradients.buckets, self.takes_micro_batches)
        self.meetings = Meetings(self.ranks, self, whole, self.are_cut, self.gradients)

    def prepare(self, workspace: Workspace) -> None:
        super().prepare(workspace)
        if self.ranks.size > 1:
            table = workspace.table
            table.reduction = self.sums
            table.first_blocks[:] = [begin // SCALE_BLOCK for begin, _ in self.slices.values()]

    def check_param(self, name: str, array: Any) -> None:
        """Let every part pass: the whole arrays were checked."""

    def checked(self, check: Callable[[], Any]) -> Any:
        """Return what a function returns that checks this rank's arguments.

        Raises
        ------
        RankError
            If it has raised on another rank; on this rank its own error.
        """
        try:
            return checked_together(self.ranks, check)
        except Exception:
            if self.ranks.calls_differ:  # others may have begun to exchange gradients
                self.gradients.drop(self.ranks)
            raise

    def check_row_sparse(self, name: str) -> None:
        self.gradients.refuse_row_sparse(name)

    def step(self, grads: Any = None, *, grad_scale: float | None = None, stream: Any = None) -> StepInfo:
        """Apply one step with the gradients of all ranks; all call it together.

        Parameters
        ----------
        grads : array or structure of arrays
            This rank's gradients, as in one process. None, or a missing key, on some ranks counts as zeros; on all
            ranks it skips the array. With ``exact`` a list of such, one for each of this rank's micro-batches, as many
            on each rank and in each step. Left out if the gradients were given by :meth:`add`.
        grad_scale : float, optional
            Instead of the optimizer's, for this step; the same on all ranks.
        stream : None
            Arrays on the host have no stream.

        Returns
        -------
        StepInfo
            The same on all ranks.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank, or the ranks differ. Nothing has changed then, on any rank.
        RankError
            If an argument is wrong on another rank; nothing has changed. Or if another rank has failed, or ended its
            program, during the step, or waits in another call for this one.
        RuntimeError
            If a call that the ranks make together is running, in another thread or around this call.
        """
        self.take_turn("step")
        gradients, whole = self.gradients, self.parts.whole
        if gradients.is_of_one_process and grads is not None and not gradients.has_begun:
            try:
                return super().step(grads, grad_scale=grad_scale, stream=stream)
            finally:
                self.end_turn()
        try:
            try:
                present = self.meetings.meet("step", grads, grad_scale, stream)
                gradients.check_count()
            except Exception:
                if not self.ranks.calls_differ:  # else all ranks have dropped their gradients
                    gradients.drop(self.ranks)
                raise
            gradients.finish(whole.loss_scale(grad_scale))
            whole.are_scaled = gradients.is_scaled
            whole.summed = (
                gradients.calls if self.takes_micro_batches else self.ranks.size if self.reduction == "mean" else 1
            )
            info = super().step(self.sums_of_gradients(present), grad_scale=grad_scale, stream=stream)
            self.finish(info, present)
            gradients.clear()
            return info
        finally:
            gradients.forget()
            self.end_turn()

    def add(self, name: str, grad: Any) -> None:
        """Give the gradient of one array, from the backward pass; :meth:`step` without gradients completes the step.

        The exchange of a bucket begins as soon as this rank has the gradients of all of its arrays, and goes on in each
        call, while others are still computed.

        Parameters
        ----------
        name : str
            The array's name, as in ``opt.state``.
        grad : array or None
            Its gradient. With ``exact``, the k-th call with a name is for micro-batch k of this rank. Unlike those
            given to :meth:`step` it is read until the step returns: don't write into it before. An array without a call
            has no gradient.

        Raises
        ------
        TypeError, ValueError
            If there is no such array, it has its gradient already, or this can't be one. The call counts for nothing
            then; the other ranks do not learn of it.

        Notes
        -----
        No rank waits here. Buckets are exchanged in one order on all ranks: from the last one to the first, and after
        the first such step in the order in which rank 0 had them. Ranks may add in different orders.

        A step that was begun, and shall not be made, ends with :meth:`drop`.
        """
        self.take_turn("add")
        try:
            self.whole.frozen = self.parts.parameters.frozen
            self.gradients.add(name, grad)
        finally:
            self.end_turn()

    def drop(self) -> None:
        """Forget the gradients of :meth:`add`, instead of a step, on all ranks.

        Raises
        ------
        RankError
            Another rank has an error. In the other ranks, which call :meth:`step`, this call is one; nothing has
            changed there. They may call :meth:`drop` too, which is none.
        """
        self.take_turn("drop")
        try:
            self.meetings.end(Dropped("this rank dropped the step: drop()"))
        except Dropped:
            pass
        finally:
            try:
                self.gradients.drop(self.ranks)
            finally:
                self.end_turn()

    def flush(self, *, stream: Any = None) -> StepInfo:
        """Apply an incomplete accumulation, as in one process; all ranks call it together."""
        self.take_turn("flush")
        try:
            present = self.meetings.meet("flush", stream=stream, is_flush=True)
            info = super().flush(stream=stream)
            self.finish(info, present)
            return info
        finally:
            self.end_turn()

    def sums_of_gradients(self, present: Sequence[bool]) -> Any:
        """Return the sum of the gradients of each part of this rank, in the structure of the parts."""
        if all(present):
            return self.all_sums
        sums = [its if is_there else None for its, is_there in zip(self.sums_of_parts, present, strict=True)]
        return self.parts.parameters.structure(sums)

    def finish(self, info: StepInfo, present: Sequence[bool]) -> None:
        """Get the parts of the other ranks, of the arrays that have changed, after a step that was applied."""
        if info.applied:
            # Calls before this one may have accumulated gradients of arrays that have none now.
            has_accumulated = self.parts.options.accumulate_steps > 1
            changed = [True] * len(present) if has_accumulated else present
            self.gather.run(changed)
            for i in self.with_copy:
                if changed[i]:
                    self.parts.backend.ops.write_rounded(self.whole.copies[i], self.whole.arrays[i])

    def add_param_group(self, group: Group) -> None:
        """Add arrays, with options of their own, as in one process; all ranks call it together.

        Raises
        ------
        TypeError, ValueError
            As in one process, or if the ranks differ in the group. Nothing has changed then, on any rank.
        RankError
            If the group of another rank is wrong.
        """
        if not hasattr(self, "gradients"):  # the constructor adds the first groups
            super().add_param_group(group)
            return
        self.take_turn("add_param_group")
        try:
            addition: Addition = self.checked(lambda: self.addition(group))
            options = {name: value for name, value in group.items() if name != "params"}
            its = agreement.encoded_options(options)
            self.ranks.agree({**agreement.forms_of(addition.names, addition.arrays), "options": its})
            agreement.check_same_values(self.ranks, addition.names, addition.arrays)
            number = len(self.param_groups)
            of_arrays = [{"max_weight_norm": None, **self.defaults, **options}] * len(addition.names)
            share = self.share(addition.names, addition.arrays, of_arrays)
            super().add_param_group(group if self.ranks.size == 1 else {**options, "params": share.parts})
            self.whole.add(addition, [number] * len(addition.names))
            self.take_share(share)
        finally:
            self.end_turn()

    def addition(self, group: Group) -> Addition:
        """Return the arrays of a new group, checked as in one process."""
        if not is_group(group):
            raise TypeError(f"param group: expected a dict with the key 'params', got {group!r:.80}")
        self.option_set.check_known({name: value for name, value in group.items() if name != "params"})
        if self.gradients.has_begun:
            raise RuntimeError("add_param_group: there are gradients of add(); call step() or drop() first")
        branch = self.whole.branch(group["params"])
        names, arrays = list(branch.names()), list(branch.arrays())
        checks = [super().check_param] * len(names)
        addition = self.whole.addition(branch, names, arrays, self.parts.backend, checks)
        check_wire_dtype(self.wire_dtype, addition.names, addition.arrays)
        return addition

    @property
    def params(self) -> Any:
        """The parameters in their structure (lists for tuples): the very arrays that the optimizer was given."""
        return self.whole.given()

    def __repr__(self) -> str:
        if not hasattr(self, "parts"):
            return super().__repr__()
        return f"Sharded({representation(self)}, rank {self.ranks.rank} of {self.ranks.size})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: a sharded optimizer can't be copied or pickled, since the ranks hold its state "
            "together; use opt.state_dict(), or save it"
        )


#: The class of the sharded optimizers of each class.
CLASSES: dict[type[Optimizer], type[Sharded]] = {}


def class_of(optimizer: type[Optimizer]) -> type[Sharded]:
    """Return the class of the sharded optimizers of this class: a subclass of it, with its name."""
    if optimizer not in CLASSES:
        names = {"__module__": optimizer.__module__, "__qualname__": optimizer.__qualname__, "__doc__": Sharded.__doc__}
        attributes = {**names, **further_methods(optimizer)}
        made = CLASSES[optimizer] = type(optimizer.__name__, (Sharded, optimizer), attributes)
        DEFAULTS[made] = default_options(optimizer)
    return CLASSES[optimizer]
