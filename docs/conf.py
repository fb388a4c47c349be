"""Sphinx: `make docs` builds with every warning as an error."""

from __future__ import annotations

from trainbus import __version__

project = "trainbus"
author = "The trainbus developers"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"trainbus {version}"

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
default_role = "code"

# Names of other projects, for which we fetch no inventory: a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!trainbus\.).*")]
