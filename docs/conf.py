"""How Sphinx builds the documents; the repository is the source, so that links hold there too."""

import re

from docutils import nodes
from latex2mathml.converter import convert

from fmaml_jax import recognition

project = "fmaml_jax"
copyright = "the fmaml_jax maintainers, Apache-2.0"
root_doc = "docs/index"
include_patterns = ["docs/**", "experiments/**", "fmaml_jax/starts/*", "*.md"]
exclude_patterns = ["data", "runs", "report", "site", ".*"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4

default_role = "code"  # what docstrings have in single backticks
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_use_ivar = True

html_theme = "furo"
html_title = "fmaml_jax"
html_copy_source = False

# The names that are loaded when they are asked for; autodoc does not ask.
vars(recognition).update({name: getattr(recognition, name) for name in recognition.__all__})


def as_mathml(translator, node):
    """Browsers draw MathML by themselves: no script, and no other server."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def with_blocks(app, what, name, obj, options, lines):
    """What modules' docstrings have indented is text as it stands."""
    if what == "module":
        text = "\n".join(lines)
        lines[:] = re.sub(r"(?m)^(\S.*\n\n)(?=    )", r"\1::\n\n", text).split("\n")


def is_alias(app, what, name, obj, skip, options):
    """Fields of named tuples stand under Attributes already."""
    return (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") or None


def setup(app):
    app.connect("autodoc-process-docstring", with_blocks)
    app.connect("autodoc-skip-member", is_alias)
    app.add_node(nodes.math, override=True, html=(as_mathml, None))
    app.add_node(nodes.math_block, override=True, html=(as_mathml, None))
