"""The settings of the site (``nox -s docs``): of the pages here, the docstrings, and the scripts of examples/."""

import inspect
import sys
from pathlib import Path
from typing import Any

import fastopt
from fastopt.core.documentation import Documentation
from fastopt.options.common import Common

sys.path.insert(0, str(Path(__file__).parent))

import pictures_of_pages
from gallery_scripts import HELPERS

project = "fastopt"
author = "the fastopt authors"
version = release = fastopt.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build"]
nitpicky = True  # a reference to what has no page is a mistake
html_theme = "furo"
html_title = "fastopt"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
highlight_language = "none"  # formulas in docstrings; code says its language
pygments_dark_style = "github-dark"

autodoc_member_order = "bysource"
autodoc_mock_imports = ["thinc", "torch"]  # fastopt.thinc and fastopt.torch are described where these are missing too
autodoc_typehints = "none"  # the sections of the docstrings say the types
add_module_names = False
# autodoc lists the members; a second list by numpydoc would want a page for each.
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": rf"(^|[\\/])({'|'.join(HELPERS)})$".replace(".py", r"\.py"),
    "within_subsection_order": "gallery_scripts.Order",
    "image_scrapers": ("gallery_scripts.scrape",),
    # The scripts show what fastopt does now: each runs in every build, also if it has not changed.
    "default_thumb_file": str(pictures_of_pages.PROGRAM),
    "run_stale_examples": True,
    "parallel": 2,
    "download_all_examples": False,
    "notebook_extensions": set(),
    "write_computation_times": False,
    "min_reported_time": float("inf"),
    "show_signature": False,
    "capture_repr": (),
    "inspect_global_variables": False,
}


def show_docstring_as_written(app: Any, kind: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Let each optimizer describe its own options alone: those that all take stand at :class:`fastopt.Optimizer`."""
    documented = vars(item).get("__doc__") if inspect.isclass(item) else None
    if isinstance(documented, Documentation) and item is not fastopt.Optimizer:
        lines[:] = inspect.cleandoc(documented.template).split("\n")


def show_signature_as_written(app: Any, kind: str, name: str, item: Any, *_: Any) -> tuple[str, None] | None:
    if not (inspect.isclass(item) and issubclass(item, fastopt.Optimizer)) or item is fastopt.Optimizer:
        return None
    signature = inspect.signature(item)
    own = [each for each in signature.parameters.values() if each.name not in Common.__annotations__]
    own = [each.replace(annotation=each.empty) for each in own]
    own.append(inspect.Parameter("common", inspect.Parameter.VAR_KEYWORD))
    return str(signature.replace(parameters=own, return_annotation=signature.empty)), None


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: pictures_of_pages.draw(), priority=100)  # before the gallery
    app.connect("autodoc-process-docstring", show_docstring_as_written, priority=100)
    app.connect("autodoc-process-signature", show_signature_as_written, priority=600)
