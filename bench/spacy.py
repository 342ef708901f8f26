"""spaCy and thinc: an update in thinc's optimizer and in fastopt's, and a whole run of ``spacy train`` with each."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.case import Case, Stepper, Work
from bench.contenders import Contender, refill
from bench.limit import limit
from bench.rules import LR
from bench.shapes import ArraySet

WIDTH, ROWS = 96, (5000, 1000, 2500, 2500)
MAXOUT = ((WIDTH, 3), (WIDTH,), (WIDTH,))  # biases, and the scale and shift of a layer norm
TOK2VEC = [*((rows, WIDTH) for rows in ROWS), (WIDTH, 3, 4 * WIDTH), *MAXOUT, *((WIDTH, 3, 3 * WIDTH), *MAXOUT) * 4]
#: The pipeline that spaCy writes into a new config: embeddings, an encoder of depth 4, and the output of a tagger.
SPACY_SETS = {"26 arrays, 1.5M": ArraySet([*TOK2VEC, (50, WIDTH), (50,)])}
#: Parameter, two moments and average; each array's gradient is read for its norm, and cleared.
UPDATE_OF_THINC = Work(written=4, norm=True, write_grads=True)


def by_array(case: Case, make: Callable[[], Any]) -> Stepper:
    """An optimizer that is called for each array."""
    optimizer, params = make(), case.arrays()
    keys = [(number, "W") for number in range(len(params))]

    def step(grads: list) -> None:
        for key, weights, gradient in zip(keys, params, grads, strict=True):
            optimizer(key, weights, gradient)

    return Stepper(step, case.gradient_sets(), refill)


def thinc_step(case: Case) -> Stepper:
    from thinc.optimizers import Adam

    return by_array(case, partial(Adam, LR, L2=0.01))


def fastopt_step(case: Case) -> Stepper:
    import fastopt
    from fastopt.thinc import Adam

    fastopt.set_num_threads(case.threads)
    return by_array(case, partial(Adam, LR, L2=0.01))


def fastopt_collected_step(case: Case) -> Stepper:
    """All arrays in one step, which thinc's protocol does not allow."""
    import fastopt
    from fastopt.thinc import Adam

    fastopt.set_num_threads(case.threads)
    optimizer = Adam(LR, L2=0.01)
    opt = optimizer.optimizer_of(case.arrays(), optimizer.options(1.0))
    return Stepper(opt.step, case.gradient_sets(), refill)


THINC: dict[str, Contender] = {
    "limit": limit,
    "fastopt": fastopt_step,
    "fastopt, collected": fastopt_collected_step,
    "thinc": thinc_step,
}


@dataclass(frozen=True)
class Run(Work):
    """A run of ``spacy train``: 50 updates of 16 texts, five evaluations, and the saved pipeline."""

    written: int = 0
    kind: str = ""


RUNS = {"textcat, bag of words": Run(kind="textcat"), "named entities": Run(kind="ner")}


def train(case: Case, name: str) -> Stepper:
    """``spacy train`` on a generated corpus, as the tests run it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from thinc_optimizers import spacy_runs

    if "fastopt" in name:
        import fastopt.thinc

        fastopt.set_num_threads(case.threads)
    optimizer = {"@optimizers": name, "learn_rate": LR, "L2": 0.01, "grad_clip": 1.0, "use_averages": True}

    def step(_: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            spacy_runs.run(Path(folder), case.work.kind, optimizer, 50, spacy_runs.USUAL)

    return Stepper(step, [None])


SPACY_TRAIN: dict[str, Contender] = {
    "fastopt": partial(train, name="fastopt.Adam.v1"),
    "thinc": partial(train, name="Adam.v1"),
}
