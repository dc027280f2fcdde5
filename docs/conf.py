"""The documentation: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from docutils import nodes
from latex2mathml import converter
from sphinx.application import Sphinx

project = "kerasight"
author = "the kerasight authors"
copyright = "2026, the kerasight authors"
version = release = metadata.version("kerasight")

# Sphinx reads what lies in its own folder.
FOLDER = Path(__file__).parent
shutil.rmtree(FOLDER / "notebooks", ignore_errors=True)
shutil.copytree(
    FOLDER.parent / "notebooks",
    FOLDER / "notebooks",
    ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # single backticks in docstrings

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are kept executed, and the tests execute them

autosummary_generate = False  # a table of names, and no page for each
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as a list, as short as the docstring

# Docstrings take the name they document as given.
doctest_global_setup = "from kerasight.keras.gradcam import gradcam"


class WithoutShapes(importlib.machinery.SourceFileLoader):
    """Reads arrays in annotations as arrays alone: the text beside them tells their shapes."""

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        source = re.sub(rb'\w+\[np\.ndarray, "[^"]*"\]', b"np.ndarray", source)
        return compile(source, self.path, "exec", dont_inherit=True)


spec = importlib.util.find_spec("kerasight")
assert spec is not None
hook = importlib.machinery.FileFinder.path_hook((WithoutShapes, [".py"]))
for init in Path(str(spec.origin)).parent.rglob("__init__.py"):
    sys.path_importer_cache[str(init.parent)] = hook(str(init.parent))

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "kerasight"
html_static_path = ["_static"]
html_css_files = ["kerasight.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"


def visit_math(self: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers show by themselves."""
    if isinstance(node, nodes.math_block):
        formula = converter.convert(node.astext(), display="block")
        self.body.append(f'<div class="formula">{formula}</div>')
    else:
        self.body.append(converter.convert(node.astext()))
    raise nodes.SkipNode


def find_under_public_path(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Resolve a name that a docstring uses bare, or with the module that defines it."""
    if node.get("refdomain") != "py":
        return None
    domain, name = env.domains["py"], node["reftarget"].rpartition(".")[2]
    found = [path for path in domain.objects if path.rpartition(".")[2] == name]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def name_method(app: Sphinx, what: str, name: str, obj: Any, options: Any, *shown: Any) -> Any:
    """Write a method in a signature as users do, by its name."""
    signature, returns = shown
    return signature and re.sub(r"Method\(name=('[^']*')[^)]*\)", r"\1", signature), returns


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("autodoc-process-signature", name_method)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("missing-reference", find_under_public_path)
