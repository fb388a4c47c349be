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

nitpick_ignore_regex = [
    ("py:.*", r"(?!trainbus\.).*"),  # names of other projects, whose inventories a build would have to fetch
    ("py:.*", r"trainbus\.bus\.(wire|events|config)\..*"),  # described in words, on pages of their own
    ("py:.*", r".*\.[A-Z]"),  # type variables
]
