"""An optimizer whose state is shared out among the ranks of a communicator."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..arrays.dtypes import Array
from ..core.optimizer import Optimizer
from ..core.parameters import Parameters
from ..core.results import StepInfo
from ..core.workspace import Workspace
from ..options.group_by import Grouped
from .gradients import BucketOfGradients, add_in_rank_order
from .layout import Form, buckets_of
from .parameters import gather
from .ranks import Ranks
from .sums import SumsOfRanks


class Sharded(Optimizer):
    """An optimizer whose state is shared out among the ranks of a communicator (ZeRO stage 1)."""

    ranks: Ranks
    #: The arrays and their structure, as the user gave them; ``parts.parameters`` has the slices.
    whole: Parameters

    def __new__(cls, optimizer: type[Optimizer], *arguments: Any, **options: Any) -> Sharded:
        made: Sharded = object.__new__(class_of(optimizer))  # type: ignore[arg-type]
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
        # It checks all arrays and options as in one process. It makes no step, so it has no slots.
        model = optimizer(params, **options)
        self.ranks = ranks = Ranks(comm)
        self.whole = whole = model.parts.parameters
        self.vectors = [model.parts.backend.ops.in_memory_order(array).reshape(-1) for array in whole.arrays]
        forms = [Form(array.size, array.dtype, array.flags.c_contiguous) for array in whole.arrays]
        self.buckets = buckets_of(forms, ranks.size, bucket_bytes)
        self.gradients = [BucketOfGradients(ranks, bucket) for bucket in self.buckets]
        bucket_of = [bucket for bucket in self.buckets for _ in bucket.numbers]
        bounds = [[bucket_of[i].slice_of(i, rank) for i in range(len(forms))] for rank in range(ranks.size)]
        #: Where the part of each array that this rank owns begins and ends.
        self.slices = dict(zip(whole.names, bounds[ranks.rank], strict=True))
        self.sums = SumsOfRanks(ranks, np.array([[end - begin for begin, end in each] for each in bounds]))
        slices: dict[str, Array] = {
            name: vector[begin:end]
            for (name, (begin, end)), vector in zip(self.slices.items(), self.vectors, strict=True)
        }
        groups = [{name: value for name, value in group.items() if name != "params"} for group in model.param_groups]
        group_of = dict(zip(whole.names, whole.group_of.tolist(), strict=True))
        super().__init__(Grouped(slices, groups, group_of), **options)

    def prepare(self, workspace: Workspace) -> None:
        super().prepare(workspace)
        workspace.table.reduction = self.sums

    def step(self, grads: Any, *, grad_scale: float | None = None, stream: Any = None) -> StepInfo:
        """Apply one step with the sum of all ranks' gradients."""
        leaves = self.whole.leaves(grads, "grads")
        header = np.array([leaf is not None for leaf in leaves], np.int64)
        present = np.any(self.ranks.meet(None, header), axis=0).tolist()
        add_in_rank_order(self.ranks, self.gradients, leaves)
        names = self.whole.names
        slices = {
            names[i]: bucket.slice_of(i) if present[i] else None
            for bucket in self.gradients
            for i in bucket.bucket.numbers
        }
        info = super().step(slices, grad_scale=grad_scale, stream=stream)
        gather(self.ranks, self.buckets, self.vectors)
        return info


@cache
def class_of(optimizer: type[Optimizer]) -> type[Sharded]:
    """Return the class of optimizers of this kind whose state is shared out."""
    return type(optimizer.__name__, (Sharded, optimizer), {"__module__": __name__})
