"""``spacy train`` with fastopt's Adam in its config: the scores, the weights and the files of thinc's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

spacy = pytest.importorskip("spacy", reason="runs spacy train")
runs = pytest.importorskip("thinc_optimizers.spacy_runs")
thinc = pytest.importorskip("fastopt.thinc")
api = pytest.importorskip("thinc.api")


def options(learn_rate: float, use_averages: bool) -> dict[str, Any]:
    return {"learn_rate": learn_rate, "L2": 0.01, "grad_clip": 1.0, "use_averages": use_averages}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def scores(pipeline: Path) -> tuple[dict[str, Any], float]:
    """Return the scores that spaCy has saved with a pipeline, and the loss."""
    performance = json.loads((pipeline / "meta.json").read_text("utf-8"))["performance"]
    (loss,) = (performance.pop(name) for name in list(performance) if name.endswith("_loss"))
    return performance, loss


@pytest.mark.parametrize(("kind", "learn_rate", "use_averages"), [("textcat", 0.001, True), ("ner", 0.003, False)])
def test_a_run_of_spacy_train(kind: str, learn_rate: float, use_averages: bool, tmp_path: Path) -> None:
    folders = [
        runs.run(tmp_path / folder, kind, {"@optimizers": name, **options(learn_rate, use_averages)})
        for folder, name in (("theirs", "Adam.v1"), ("ours", "fastopt.Adam.v1"))
    ]
    assert files(folders[0]) == files(folders[1])
    assert f"{kind}/model" in files(folders[0] / "model-best")
    for name in ("model-best", "model-last"):
        theirs, ours = (folder / name for folder in folders)
        (expected, loss), (found, loss_here) = scores(theirs), scores(ours)
        assert found == expected
        assert max(value for value in found.values() if isinstance(value, float)) > 0.3  # it has learned something
        assert loss_here == pytest.approx(loss, rel=1e-3)
        parameters = runs.parameters(ours)
        for key, array in runs.parameters(theirs).items():
            # Where nothing but decay moves a weight, its rounding adds up to this in 30 steps.
            np.testing.assert_allclose(parameters[key], array, rtol=1e-4, atol=2e-5, err_msg=str(key))
    check_is_of_spacy_alone(folders[1] / "model-best")


def check_is_of_spacy_alone(pipeline: Path) -> None:
    """One line of its config names fastopt, and spaCy does not look for that name when it loads and uses it."""
    told = {file: (pipeline / file).read_bytes().count(b"fastopt") for file in files(pipeline)}
    assert {file: count for file, count in told.items() if count} == {"config.cfg": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.registry.optimizers, "get", refuse)
        patch.setattr(api.registry.optimizers, "get_entry_point", refuse)
        nlp = spacy.load(pipeline)
        assert nlp("word1 Name2").text == "word1 Name2"
        with pytest.raises(AssertionError, match=r"spaCy looks for fastopt\.Adam\.v1"):
            api.registry.resolve({"optimizer": nlp.config["training"]["optimizer"]})


def refuse(name: str) -> None:
    raise AssertionError(f"spaCy looks for {name}")


def test_update_without_schedules() -> None:
    """A loop of one's own: ``nlp.update`` steps in the call, and nobody calls ``step_schedules``."""

    def trained(optimizer: Any) -> Any:
        nlp, examples = runs.pipeline_and_examples("textcat")
        nlp.initialize(lambda: examples, sgd=optimizer)
        for _ in range(5):
            nlp.update(examples, sgd=optimizer)
        with nlp.use_params(optimizer.averages):
            return nlp(examples[0].reference.text).cats

    assert trained(thinc.Adam(0.01)) == pytest.approx(trained(api.Adam(0.01)), abs=1e-5)
