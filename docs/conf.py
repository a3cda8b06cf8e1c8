"""The site's settings: `uv run --group site sphinx-build -W docs docs/_build/html` builds it, and needs no network.

Its pages are the Markdown files of this folder, as they are: they are read on a forge, too. The site adds what a forge
has not: the docstrings of all that is public, a table of contents, and a search that works offline. Diagrams are drawn
while it is built, so that a reader's browser loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import sys
from html import escape
from pathlib import Path
from typing import Final

import mmdr
from docutils import nodes
from docutils.parsers.rst import Directive
from markdown_it.main import _PRESETS
from sphinx.application import Sphinx

DOCS: Final = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "site")]

from docstrings import write_pages  # noqa: E402 - same

import nntrain  # noqa: E402 - after the line above
from tests.docs.api import PUBLIC  # noqa: E402 - same

project = "nntrain"
author = "the authors of nntrain"
copyright = f"2026, {author}"
release = nntrain.__version__

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build", "site"]

html_theme = "furo"
html_title = f"nntrain {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["reference/event.schema.json"]

pygments_dark_style = "github-dark"

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

# The map's lists are deep, and markdown-it drops without a word what lies deeper than 20, and all that comes after it.
_PRESETS["commonmark"]["options"]["maxNesting"] = 100

CONTENTS: Final = {
    "Learn": ("tutorial", "examples/README", "examples/plateau/README"),
    "How to": ("how-to/*",),
    "Reference": ("reference/*", "reference/docstrings/index"),
    "Explanation": ("explanation/*",),
    "The project": ("changelog", "CONTRIBUTING"),
}
"""What stands at the side of each page: here and not in `index.md`, where a forge would show it as code."""


class Mermaid(Directive):
    """A diagram, drawn into the page."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the diagram as a picture whose text for those who do not see it is its source."""
        source = "\n".join(self.content)
        drawn = base64.b64encode(mmdr.render(WHITE_LABELS + source).svg().encode()).decode()
        image = f'<img alt="{escape(source)}" src="data:image/svg+xml;base64,{drawn}">'
        return [nodes.raw("", f'<div class="diagram">{image}</div>', format="html")]


WHITE_LABELS: Final = '%%{init: {"themeVariables": {"edgeLabelBackground": "#ffffff"}}}%%\n'


def add_contents(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the tables of contents to the first page."""
    if page == "index":
        for caption, pages in CONTENTS.items():
            source[0] += "\n".join(
                ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", *pages, "```", ""]
            )


def write_docstrings(_: Sphinx) -> None:
    """Write the pages that the docstrings make, which Git ignores."""
    write_pages(DOCS / "reference" / "docstrings", PUBLIC, DOCS.parent)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("mermaid", Mermaid)
    app.connect("source-read", add_contents)
    app.connect("builder-inited", write_docstrings)
