"""The pages of docs/: their examples run, their commands exist, and each is in the table of contents."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shutil

import pytest
import shell_blocks
from pages import DOCS, blocks, every_page, names_of, needs, text_of
from places import ROOT

import fastopt
from fastopt import schedules

PAGES = every_page()

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the source tree is not here"),
    pytest.mark.usefixtures("restored"),
]
each_page = pytest.mark.parametrize("page", PAGES)


@each_page
def test_examples_run(page: str) -> None:
    for package in needs(page):
        pytest.importorskip(package)
    names_of(page)


def test_examples_are_found() -> None:
    """Without this, a search that found no example would pass for one where all of them run."""
    assert names_of("guide/full_batch")["result"].success


@each_page
def test_every_block_has_a_known_language(page: str) -> None:
    """One of another language, or one that names none, would be tested by nothing."""
    text = text_of(page)
    assert {language for language, _ in blocks(page)} <= {"python", "sh", "text", "c"}
    assert len(blocks(page)) == len(re.findall(r"^ *\.\. code-block::", text, re.M))
    assert not re.findall(r"^ *\.\. (?:code|sourcecode|highlight|parsed-literal|doctest|plot)::", text, re.M)
    assert not re.findall(r"^(?! *\.\. ).*::$", text, re.M), "a literal block without a language"
    assert not re.findall(r"^ *>>> ", text, re.M)


@each_page
@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the source tree is not here")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_shell_blocks(page: str) -> None:
    for language, script in blocks(page):
        if language == "sh":
            shell_blocks.check(script, may_lack=needs(page))


def listed_in(index: str) -> list[str]:
    """Return the pages of an index's tables of contents, by their paths in docs/."""
    trees = re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   \S.*\n|\n)+)", text_of(index), re.M)
    folder = index.removesuffix("index")
    return [folder + name for tree in trees for name in tree.split()]


def test_every_page_is_in_the_table_of_contents_once() -> None:
    indices = [page for page in PAGES if page.endswith("index")]
    listed = [page for index in indices for page in listed_in(index) if not page.startswith("gallery/")]
    assert sorted([*listed, "index"]) == PAGES


#: The modules that stand directly in fastopt/ and are not public.
NOT_PUBLIC = {"__main__", "_native", "about", "arithmetic", "arrays", "backends", "commands", "core", "full_batch"}
NOT_PUBLIC |= {"options"}
#: Public modules that need another library, with their pages.
HOSTS = {"thinc": "hosts/spacy", "torch": "hosts/torch"}


def test_every_public_module_has_a_page() -> None:
    modules = {module.name for module in pkgutil.iter_modules(fastopt.__path__)} - NOT_PUBLIC | {"fastopt"}
    pages = {page.stem for page in (DOCS / "api").glob("*.rst")} - {"index"}
    assert pages == modules - HOSTS.keys()
    assert {HOSTS[module] for module in modules & HOSTS.keys()} <= set(PAGES)


def test_benchmarks_shows_the_measured_figures() -> None:
    """Each table has the title of one of bench/results.md, and in each row cells of one row there."""
    results = (ROOT / "bench" / "results.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\.\. list-table:: (.*)\n(?:   :.*\n)+\n((?:   .*\n)+)", text_of("benchmarks"), re.M)
    assert len(tables) == 4
    for title, table in tables:
        section = results.split(f"\n## {title}\n")[1].split("\n## ")[0]
        measured = [line.strip("| ").split(" | ") for line in section.split("\n") if line.startswith("|")]
        columns, *rows = [re.findall(r"^   [* ] - (.*)$", "   * - " + row, re.M) for row in table.split("   * - ")[1:]]
        places = [measured[0].index(column) for column in columns]
        assert {tuple(row) for row in rows} <= {tuple(row[k] for k in places) for row in measured}, title


def test_schedules_lists_every_schedule() -> None:
    listed = re.findall(r"^   \* - :class:`~fastopt\.schedules\.(\w+)`", text_of("guide/schedules"), re.M)
    assert sorted(listed) == sorted(set(schedules.__all__) - {"Schedule", "examples", "plot"})


#: The modules whose public names the pages of docs/api describe; the rules are shown as they are written.
MODULES = ("averaging", "checkpoint", "clip", "convert", "init", "lr_scheduler", "optimizers", "quantize", "schedules")


def test_every_public_name_is_in_the_api() -> None:
    described = set()
    for page in [page for page in PAGES if page.startswith("api/")]:
        names = re.findall(r"^\.\. auto(?:class|function|exception|data):: (\S+)", text_of(page), re.M)
        described |= {name.rpartition(".")[2] for name in names}
    names = {name for name in fastopt.__all__ if not inspect.ismodule(getattr(fastopt, name))}
    for module in (*MODULES, "training"):
        names |= set(dir(getattr(fastopt, module)))
    assert names - described == {"FORMAT_VERSION"}  # for those who read a file without fastopt
