"""``spacy train`` with fastopt's Adam in its config: the scores, the weights and the files of thinc's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ENVIRONMENT

pytest.importorskip("spacy", reason="runs spacy train")
runs = pytest.importorskip("thinc_optimizers.spacy_runs")
pytest.importorskip("fastopt.thinc")


def options(use_averages: bool) -> dict[str, Any]:
    return {"learn_rate": 0.001, "L2": 0.01, "grad_clip": 1.0, "use_averages": use_averages}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def scores(pipeline: Path) -> tuple[dict[str, Any], float]:
    """Return the scores that spaCy has saved with a pipeline, and the loss."""
    performance = json.loads((pipeline / "meta.json").read_text("utf-8"))["performance"]
    (loss,) = (performance.pop(name) for name in list(performance) if name.endswith("_loss"))
    return performance, loss


@pytest.mark.parametrize(("kind", "use_averages"), [("textcat", True), ("ner", False)])
def test_a_run_of_spacy_train(kind: str, use_averages: bool, tmp_path: Path) -> None:
    folders = [
        runs.run(tmp_path / name, kind, {"@optimizers": name, **options(use_averages)})
        for name in ("Adam.v1", "fastopt.Adam.v1")
    ]
    assert files(folders[0]) == files(folders[1])
    assert f"{kind}/model" in files(folders[0] / "model-best")
    for name in ("model-best", "model-last"):
        theirs, ours = (folder / name for folder in folders)
        (expected, loss), (found, loss_here) = scores(theirs), scores(ours)
        assert found == expected
        assert loss_here == pytest.approx(loss, rel=1e-3)
        parameters = runs.parameters(ours)
        for key, array in runs.parameters(theirs).items():
            # Where nothing but decay moves a weight, its rounding adds up to this in 40 steps.
            np.testing.assert_allclose(parameters[key], array, rtol=1e-4, atol=2e-5, err_msg=str(key))
    if kind == "ner":
        check_without_fastopt(folders[1] / "model-best")


def check_without_fastopt(pipeline: Path) -> None:
    """A pipeline is of spaCy alone: it is loaded and used where fastopt can't be imported."""
    code = (
        "import sys; sys.modules['fastopt'] = None; import spacy; nlp = spacy.load(sys.argv[1]); "
        "print(nlp('word1 Name2').text, nlp.config['training']['optimizer']['@optimizers'])"
    )
    command = [sys.executable, "-c", code, str(pipeline)]
    told = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert told.stdout == "word1 Name2 fastopt.Adam.v1\n"


def test_update_without_schedules(tmp_path: Path) -> None:
    """A loop of one's own: ``nlp.update`` steps in the call, and nobody calls ``step_schedules``."""

    def trained(optimizer: Any) -> Any:
        nlp, examples = runs.pipeline_and_examples("textcat")
        nlp.initialize(lambda: examples, sgd=optimizer)
        for _ in range(5):
            nlp.update(examples[:16], sgd=optimizer)
        with nlp.use_params(optimizer.averages):
            return nlp(examples[0].reference.text).cats

    from thinc.api import Adam

    from fastopt import thinc

    assert trained(thinc.Adam(0.01)) == pytest.approx(trained(Adam(0.01)), abs=1e-5)
