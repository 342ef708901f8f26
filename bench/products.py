"""A step where it stands in training: right after the matrix products that made the gradients."""

from functools import partial
from typing import Any

import numpy as np

from bench.case import Case, Stepper
from bench.contenders import FAST, Contender

SIZE = 512


def behind_product(contender: Contender, case: Case) -> Stepper:
    """The contender, with a product in NumPy outside the measured time before each step."""
    stepper, factor = contender(case), np.ones((SIZE, SIZE), np.float32)
    before = stepper.before

    def before_and_product(grads: Any) -> Any:
        handed = before(grads) if before else None
        factor @ factor
        return handed

    stepper.before = before_and_product
    return stepper


BEHIND: dict[str, Contender] = {name: partial(behind_product, contender) for name, contender in FAST.items()}
