"""How the site is built; ``docs/make_site.py`` gathers its pages."""

from decentral import __version__

project = "decentral"
author = "The authors of decentral"
copyright = author
version = release = __version__
html_theme = "furo"
html_title = f"decentral {release}"
html_show_sphinx = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
# Anchors are those of GitHub, where the same pages are read.
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# One backtick in a docstring is code, as in Markdown.
default_role = "code"
highlight_language = "text"
# Of examples that are no whole program of their language, such as a diff.
suppress_warnings = ["misc.highlighting_failure"]
