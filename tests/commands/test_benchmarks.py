"""``python -m bench``: its contenders do the same work, and bench/results.md has rows of each of its groups."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from places import ROOT

import fastopt

SHAPES = [(5, 3), (3,), (3, 2)]
LOOP_ROW, OVERHEAD_ROW = "Adam, 8-16-2, BLAS threads 2", "SGD, 6 arrays"
RULES = ["SGD", "momentum", "Adam", "Adam + global clip", "Adam, scheduled lr", "Adam, lr written"]

pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is in the source tree alone")


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("bench.networks")


@pytest.mark.parametrize("update", ["in_place_update", "fastopt_update", "torch_update"])
@pytest.mark.parametrize("rule", RULES)
def test_update_of_a_network_is_the_naive_one(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch, update: str, rule: str
) -> None:
    if update == "torch_update":
        pytest.importorskip("torch", reason="torch is a peer: pip install 'fastopt[peers]'")
    monkeypatch.setattr(networks, "TOTAL", 10)
    rules, shapes = importlib.import_module("bench.rules"), importlib.import_module("bench.shapes")
    case = networks.Case(rules.OVERHEAD_RULES[rule], shapes.ArraySet(SHAPES), threads=fastopt.info()["threads"])
    results = []
    for name in (update, "naive_update"):
        params = networks.nested(case.arrays())
        step, take = getattr(networks, name)(case, params)
        random = np.random.default_rng(0)
        for _ in range(5):
            grads = networks.nested(random.standard_normal(shape, np.float32) for shape in SHAPES)
            if take:
                take(grads)
            step(grads)
        results.append(params)
    for p, naive in zip(*map(networks.flat, results), strict=True):
        np.testing.assert_allclose(p, naive, rtol=0, atol=2e-6)


def test_optimizers_of_tensors_do_the_same(networks: ModuleType) -> None:
    torch = pytest.importorskip("torch", reason="torch is a peer: pip install 'fastopt[peers]'")
    backward, rules, shapes = (importlib.import_module(f"bench.{name}") for name in ("backward", "rules", "shapes"))
    params: dict[Any, list[Any]] = {}
    for fresh in (True, False):
        case = networks.Case(rules.RULES["adam"], shapes.ArraySet(SHAPES, fresh), threads=fastopt.info()["threads"])
        for name, contender in backward.BACKWARD.items():
            make = contender.keywords["optimizer"]

            def recording(case: Any, its: list[Any], key: Any = (fresh, name), make: Any = make) -> Any:
                params[key] = its
                return make(case, its)

            stepper = backward.model_step(case, recording)
            gradients = [param.grad for param in params[fresh, name]]
            for _ in range(5):
                stepper.seconds(1)
            is_same = [param.grad is grad for param, grad in zip(params[fresh, name], gradients, strict=True)]
            assert all(is_same) if not fresh else not any(is_same)
        results = [torch.cat([p.detach().ravel() for p in params[fresh, name]]) for name in backward.BACKWARD]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=2e-6)


class CaseWithParams:
    """A case, and the parameters that its contender steps."""

    def __init__(self, case: Any) -> None:
        self.case, self.params = case, case.arrays()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.case, name)

    def arrays(self) -> Any:
        return self.params


def case_with_params(work: Any) -> CaseWithParams:
    case, shapes = importlib.import_module("bench.case"), importlib.import_module("bench.shapes")
    return CaseWithParams(case.Case(work, shapes.ArraySet(SHAPES), threads=fastopt.info()["threads"]))


def test_functional_contenders_change_nothing(networks: ModuleType) -> None:
    functional, rules = importlib.import_module("bench.functional"), importlib.import_module("bench.rules")
    for name in ("fastopt", "functional, apply", "functional, update"):
        case = case_with_params(rules.RULES["adam"])
        before = [param.copy() for param in case.params]
        stepper = functional.FUNCTIONAL[name](case)
        for _ in range(3):
            stepper.seconds(1)
        is_pure = name != "fastopt"
        assert all(np.array_equal(param, its) is is_pure for param, its in zip(case.params, before, strict=True))


def test_contenders_of_thinc_do_the_same(networks: ModuleType) -> None:
    pytest.importorskip("thinc", reason="thinc is the optional extra spacy")
    spacy = importlib.import_module("bench.spacy")
    results = {}
    for name in ("fastopt", "fastopt, collected", "thinc"):
        case = case_with_params(spacy.UPDATE_OF_THINC)
        stepper = spacy.THINC[name](case)
        for _ in range(5):
            stepper.seconds(1)
        results[name] = case.params
    for name in ("fastopt", "fastopt, collected"):
        for param, its in zip(results[name], results["thinc"], strict=True):
            np.testing.assert_allclose(param, its, rtol=0, atol=2e-6)


#: Groups whose rows await a quiet machine.
UNMEASURED = {"build", "compiled", "spacy"}


def test_each_group_has_measured_rows(networks: ModuleType) -> None:
    groups = importlib.import_module("bench.groups").GROUPS
    _, *sections = (ROOT / "bench" / "results.md").read_text(encoding="utf-8").split("\n## ")
    rows = {section.partition("\n")[0]: section.count("\n| ") - 2 for section in sections}
    measured = {group.title for name, group in groups.items() if not (group.gpu or name in UNMEASURED)}
    assert rows.keys() == measured | {"Import and size"}
    assert all(count > 0 for count in rows.values())


def test_groups_of_networks_have_rows(tmp_path: Path) -> None:
    pytest.importorskip("threadpoolctl", reason="bench needs threadpoolctl: pip install 'fastopt[bench]'")
    report = tmp_path / "results.md"
    groups = ["--group", "loop", "--group", "overhead", "--only", LOOP_ROW, "--only", OVERHEAD_ROW]
    command = [sys.executable, "-m", "bench", "--quick", *groups, "--out", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    cells = [line.strip("| ").split(" | ") for line in report.read_text(encoding="utf-8").splitlines() if "|" in line]
    header_of_loop, _, loop, header_of_overhead, _, overhead = cells
    assert (loop[0], overhead[0]) == (LOOP_ROW, OVERHEAD_ROW)
    contenders = {"naive NumPy", "fastopt"}
    for header, row in ((header_of_loop, loop), (header_of_overhead, overhead)):
        times = dict(zip(header, row, strict=True))
        assert contenders | {"lead"} <= times.keys()
        assert all(float(times[name].replace(",", "")) > 0 for name in contenders)
        assert float(times["lead"].removesuffix("x")) > 0


def test_each_step_of_building_is_that_of_a_new_optimizer(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, rules, shapes = (importlib.import_module(f"bench.{name}") for name in ("building", "rules", "shapes"))
    case = importlib.import_module("bench.case").Case(rules.LOOP_RULES["Adam"], shapes.ArraySet([(1,)] * 3), threads=1)
    built: list[fastopt.Adam] = []

    class Adam(fastopt.Adam):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            built.append(self)

    monkeypatch.setattr(fastopt, "Adam", Adam)
    stepper = building.fastopt_building(case)
    assert all(stepper.seconds(1) > 0 for _ in range(3))
    assert [opt.step_count for opt in built] == [1, 1, 1]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib", reason="matplotlib is the optional extra plot")
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("bench.pictures")


@pytest.mark.parametrize("name", ["update", "sizes", "adam", "options"])
def test_pictures_of_groups(pictures: ModuleType, tmp_path: Path, name: str) -> None:
    """Without a background of its own, so that it is legible on white and on near-black pages."""
    group, row = importlib.import_module("bench.groups").GROUPS[name], importlib.import_module("bench.harness").Row
    rows = []
    for label, elements in (("10", 10), ("1,000, of one", 1000)):
        times = {each: 2.0 + i for i, each in enumerate(group.contenders)}
        rows.append(row(label, elements, times, percent=dict.fromkeys(times, 50.0)))
    pictures.draw(group, rows, tmp_path / "picture.png")
    from matplotlib.image import imread

    opacity = imread(tmp_path / "picture.png")[..., 3]
    assert opacity[0, 0] == 0
    assert opacity.max() == 1


def test_texts_of_pictures(pictures: ModuleType) -> None:
    assert [pictures.count(10.0**power) for power in range(1, 9)] == [
        *("10", "100", "1 k", "10 k", "100 k", "1 M", "10 M", "100 M")
    ]
    assert [pictures.duration(10.0**power) for power in (-10, -8, -6, -5, -3, -1, 0, 1)] == [
        *("0 ns", "10 ns", "1 µs", "10 µs", "1 ms", "100 ms", "1 s", "10 s")
    ]


def test_labels_of_curves_do_not_overlap(pictures: ModuleType) -> None:
    low, high = 1e-6, 1.0
    places = pictures.spread([0.5, 1e-3, 1.01e-3, 1.02e-3], (low, high))
    assert places[:2] == [0.5, 1e-3]
    least = (high / low) ** 0.05
    assert places[2] >= least * places[1]
    assert places[3] >= least * places[2]
