"""Steps long after a gradient has become 0: the moments decay until arithmetic on them would be slow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bench.case import Case, Stepper
from bench.contenders import Contender, fastopt_step, torch_step
from bench.rules import OTHERS, RULES
from bench.shapes import ArraySet

LIVING, DEAD_STEPS = 10, 3000  # steps: with a gradient, and then without one

DEAD_RULES = {name: (RULES | OTHERS)[name] for name in ("adam", "rmsprop", "adabelief", "yogi", "adan")}
DEAD_SETS = {"one of 100k": ArraySet([(100_000,)])}


@dataclass(frozen=True)
class OneSet(Case):
    """A case whose contender gets these gradients."""

    grads: list[np.ndarray] = field(default_factory=list)

    def gradient_sets(self) -> list[list[np.ndarray]]:
        return [self.grads]


def long_after(contender: Callable[[Case], Stepper], case: Case) -> Stepper:
    """A contender so many steps after its gradient has become 0."""
    grads = case.arrays(seed=7)
    stepper = contender(OneSet(case.work, case.set, case.threads, case.blas_threads, grads))
    for step in range(LIVING + DEAD_STEPS):
        if step == LIVING:
            for grad in grads:
                grad[...] = 0
        stepper.seconds(1)
    return stepper


STEPS = {
    "fastopt": partial(fastopt_step, backend="native"),
    "fastopt NumPy": partial(fastopt_step, backend="numpy"),
    "torch fused": partial(torch_step, kind="fused"),
}
DEAD: dict[str, Contender] = {}
for name, contender in STEPS.items():
    DEAD[f"{name}, with a gradient"] = contender
    DEAD[f"{name}, {DEAD_STEPS:,} steps after it"] = partial(long_after, contender)
