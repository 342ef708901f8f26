"""Sphinx makes the documentation from the docstrings: ``sphinx-build docs docs/_build``."""

import fastopt

project = "fastopt"
author = "the fastopt authors"
version = release = fastopt.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "fastopt"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the sections of the docstrings say the types
add_module_names = False
# autodoc lists the members; a second list by numpydoc would want a page for each.
numpydoc_show_class_members = False
