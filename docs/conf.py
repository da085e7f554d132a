"""How Sphinx builds this site: `sphinx-build -W docs build/docs`."""

import fastrnn

project = "fastrnn"
author = "The fastrnn developers"
version = release = fastrnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_block"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give the shapes, which say more
napoleon_use_ivar = True  # an attribute that is a property as well is described once
napoleon_use_rtype = False
napoleon_preprocess_types = False

html_theme = "furo"
html_title = f"fastrnn {release}"
exclude_patterns = ["_build"]
