"""How the site is built; ``docs/make_site.py`` gathers its pages."""

from decentral import __version__

project = "decentral"
author = "The authors of decentral"
copyright = author
version = release = __version__
html_theme = "furo"
html_title = f"decentral {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# It reads the pages by MyST's parser, and runs the notebooks, which are kept without what they
# show: a difference is then one of the text, and what the site shows is true today.
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
# What a bar of progress wrote over itself is no reading; warnings of libraries are kept.
nb_merge_streams = True
# Anchors are those of GitHub, where the same pages are read.
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# One backtick in a docstring is code, as in Markdown.
default_role = "code"
highlight_language = "text"
# Of examples that are no whole program of their language, such as a diff.
suppress_warnings = ["misc.highlighting_failure"]
