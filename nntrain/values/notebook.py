"""How values show themselves in a notebook: small tables of HTML, in which all text stays text.

They have no colours and no sizes of their own, so that they are as readable as the notebook, light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from nntrain.errors import escape_untrusted

Cell = str | int | float | None
_LONGEST: Final = 80
"""The most characters of a cell."""
_MOST: Final = 40
"""The most rows of a table."""


def html_table(caption: str, rows: Iterable[Sequence[Cell]], head: Sequence[str] = ()) -> str:
    """Return a table. Without a head, the first cell of a row is its heading.

    Numbers have six digits, or separators of thousands; None is a dash. Of many rows the first and the last are shown,
    and of a long text its beginning.
    """
    every = [*rows]
    half = _MOST // 2
    lines = [_row(one, headed=not head) for one in (every if len(every) <= _MOST else every[:half])]
    if len(every) > _MOST:
        lines.append(f'<tr><td colspan="{len(every[0])}" {_LEFT}>… {len(every) - 2 * half:,} more …</td></tr>')
        lines += [_row(one, headed=not head) for one in every[-half:]]
    columns = f"<thead><tr>{''.join(_cell('th', one) for one in head)}</tr></thead>" if head else ""
    return f"<table><caption {_LEFT}>{_text(caption)}</caption>{columns}<tbody>{''.join(lines)}</tbody></table>"


def html_details(summary: str, inner: str) -> str:
    """Return what is shown after a click on `summary`; `inner` is HTML."""
    return f"<details><summary>{_text(summary)}</summary>{inner}</details>"


_LEFT: Final = 'style="text-align: left"'


def _row(cells: Sequence[Cell], *, headed: bool) -> str:
    tags = ("th" if headed and not place else "td" for place in range(len(cells)))
    return f"<tr>{''.join(map(_cell, tags, cells))}</tr>"


def _cell(tag: str, cell: Cell) -> str:
    return f"<{tag} {_LEFT}>{_text(cell)}</{tag}>"


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.6g}"
    text = f"{cell:,}" if isinstance(cell, int) else escape_untrusted(cell[: _LONGEST + 1])
    return html.escape(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")
