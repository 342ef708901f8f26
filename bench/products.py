"""A step where it stands in training: right after the matrix products that made the gradients."""

from functools import partial

import numpy as np

from bench.case import Case, Stepper
from bench.contenders import FAST, Contender

SIZE = 512


def behind_product(contender: Contender, case: Case) -> Stepper:
    """The contender, with a product in NumPy outside the measured time before each step."""
    stepper, factor = contender(case), np.ones((SIZE, SIZE), np.float32)
    prepare = stepper.prepare

    def prepare_and_multiply() -> None:
        prepare()
        factor @ factor

    stepper.prepare = prepare_and_multiply  # type: ignore[method-assign]
    return stepper


BEHIND: dict[str, Contender] = {name: partial(behind_product, contender) for name, contender in FAST.items()}
