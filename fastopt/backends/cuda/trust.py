"""Trust ratios on a GPU, with the bits of the host's backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..table import HyperRow, Source, Trust
from .compiling import compiled
from .kernels import trust
from .launches import launch
from .layout import THREADS
from .memory import Upload, address, empty, upload
from .table import CudaTable


class TrustRatios:
    """Sets the trust ratios of one table's arrays."""

    def __init__(self) -> None:
        #: The addresses of the ratios.
        self.places: Upload | None = None

    def set(
        self,
        table: CudaTable,
        hyper_rows: Sequence[HyperRow],
        update: Source,
        trusts: Sequence[Trust],
        ratios: Sequence[Any],
    ) -> None:
        """Set each array's ratio, by its parameter's norm and its update's; the next step's rates are lr times it."""
        with table.in_stream() as stream:
            if self.places is None:
                self.param_sums = empty(table.count, "float64")
                addresses = [0 if ratio is None else address(ratio) for ratio in ratios]
                self.places = upload(np.array(addresses), None, stream)
            table.add_squares(hyper_rows, stream, "param", self.param_sums)
            table.add_squares(hyper_rows, stream, update)
            places = table.next.guard, self.places, table.rates["float64"], table.rates["float32"]
            for each in table.plan.launches:
                lr, coefficient, eps, adapt, _ = trusts[each.row]
                count, numbers = len(each.indices), (float(lr), float(coefficient), float(eps), int(adapt))
                arrays = each.table, each.row_words, count, self.param_sums, table.sums
                blocks = -(-count // THREADS)
                launch(compiled(table.device, trust), blocks, THREADS, stream, *arrays, *numbers, *places)
        table.next = table.next._replace(rates=[each.scaled for each in trusts])
