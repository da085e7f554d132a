"""How Sphinx builds this site: `sphinx-build -W docs build/docs`."""

import os
import sys
from pathlib import Path

import fastrnn

os.environ.setdefault("KERAS_BACKEND", "torch")  # what the reference of fastrnn.keras is imported with
sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "fastrnn"
author = "The fastrnn developers"
project_copyright = "The fastrnn developers, under the BSD 3-clause licence"
version = release = fastrnn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "command",
    "mathml",
    "performance",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_block", "attrs_inline"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "py:obj"  # `fastrnn.LSTM` in a docstring is a link
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give the shapes, which say more
napoleon_use_ivar = True  # an attribute that is a property as well is described once
napoleon_use_rtype = False
napoleon_preprocess_types = False

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.no-copy):not(.highlight-text) > div.highlight > pre"

html_theme = "furo"
html_title = f"fastrnn {release}"
html_static_path = ["_static"]
html_css_files = ["fastrnn.css"]
html_last_updated_fmt = None  # builds of one commit are the same
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
exclude_patterns = ["_generated"]
