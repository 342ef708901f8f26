"""Two optimizers over one network: in one step, as two of them, and one optimizer for all arrays."""

from dataclasses import dataclass
from functools import partial

from bench.case import Case, Stepper, Work
from bench.contenders import Contender
from bench.shapes import ARRAYS, ArraySet


@dataclass(frozen=True)
class Pair(Work):
    """A step of the first optimizer for arrays of two axes, and of the second one for the others."""

    matrices: str = ""
    others: str = "AdamW"
    backend: str = "native"


PAIRS_OF_OPTIMIZERS = {
    "SGD and AdamW": Pair(3, matrices="SGD"),
    "LAMB and AdamW": Pair(4, matrices="LAMB"),
    "Muon and AdamW": Pair(2, matrices="Muon"),
}
PAIR_SETS: dict[str, ArraySet] = {
    "6 of 16": ArraySet([(4, 4), (16,)] * 3),
    **{label: each for label, each in ARRAYS.items() if label.startswith("MLP")},
}


def combined_step(case: Case, **more: float) -> Stepper:
    """One fastopt.Combined."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    matrices, others = (getattr(fastopt, name) for name in (case.work.matrices, case.work.others))
    parts = [(lambda name, param: param.ndim == 2, matrices), ("*", others)]
    opt = fastopt.Combined(case.arrays(), parts, backend=case.work.backend, **more)
    return Stepper(opt.step, case.gradient_sets())


def separate_step(case: Case, **more: float) -> Stepper:
    """Two optimizers, one step after the other."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    arrays = case.arrays()
    is_matrix = [array.ndim == 2 for array in arrays]
    matrices = [array for array, its in zip(arrays, is_matrix, strict=True) if its]
    others = [array for array, its in zip(arrays, is_matrix, strict=True) if not its]
    one = getattr(fastopt, case.work.matrices)(matrices, backend=case.work.backend, **more)
    other = getattr(fastopt, case.work.others)(others, backend=case.work.backend, **more)
    sets = [
        tuple([grad for grad, its in zip(grads, is_matrix, strict=True) if its is wanted] for wanted in (True, False))
        for grads in case.gradient_sets()
    ]
    return Stepper(lambda grads: (one.step(grads[0]), other.step(grads[1])), sets)


def single_step(case: Case) -> Stepper:
    """The second optimizer for all arrays."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    opt = getattr(fastopt, case.work.others)(case.arrays(), backend=case.work.backend)
    return Stepper(opt.step, case.gradient_sets())


COMBINED: dict[str, Contender] = {
    "Combined": combined_step,
    "two optimizers": separate_step,
    "one AdamW": single_step,
    "Combined, clipped": partial(combined_step, clip_global_norm=1.0),
    "two, clipped each": partial(separate_step, clip_global_norm=1.0),
}
