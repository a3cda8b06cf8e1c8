"""HTML as a tree: whatever text is put in it stays text, for the tree is written out by the standard library.

Nothing here, and nothing that uses it, joins markup out of strings. So no text can open or close an element.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from nntrain.log.text import LONGEST, visible

Child = ET.Element | str | None


def tag(name: str, /, *children: Child, **attributes: str | bool | None) -> ET.Element:
    """Make an element.

    In an attribute's name `_` stands for `-`, and one at its end is dropped (`class_`). None and False leave an
    attribute out; True is one without a value. Text is made visible, as `nntrain.log.text.visible` says.
    """
    element = ET.Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            written = key.rstrip("_").replace("_", "-")
            element.set(written, written if value is True else visible(value))
    for child in children:
        _append(element, child)
    return element


def _append(element: ET.Element, child: Child) -> None:
    if isinstance(child, ET.Element):
        element.append(child)
    elif child:
        if len(element):
            element[-1].tail = (element[-1].tail or "") + visible(child)
        else:
            element.text = (element.text or "") + visible(child)


def script(code: str, **attributes: str) -> ET.Element:
    """Make a script of `code`, which goes out as it is: it must be ours, or JSON by `in_a_script`."""
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("This text would end the script that it is to be in.")
    element = tag("script", **attributes)
    element.text = code
    return element


def style(sheet: str) -> ET.Element:
    """Make a style of a sheet of ours, which goes out as it is."""
    element = tag("style")
    element.text = sheet
    return element


def long_text(text: str, shown: int = 240) -> ET.Element:
    """Make an element of text of any length: of a long one the beginning is seen, and the rest is a click away."""
    if len(text) <= shown and text.count("\n") < 6:
        return tag("span", text, class_="text")
    full = text[:LONGEST]
    if len(text) > LONGEST:
        full += f"… ({len(text):,} characters; the log has all)"
    first = text[:shown].split("\n", maxsplit=1)[0]
    return tag("details", tag("summary", f"{first}…"), tag("span", full, class_="text"))


def table(head: Iterable[Child], rows: Iterable[ET.Element], caption: str, **attributes: str | None) -> ET.Element:
    """Make a table that scrolls inside its own box where it is wider than the page."""
    columns = [tag("th", one, scope="col") for one in head]
    made = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *columns)),
        tag("tbody", *rows),
        **attributes,
    )
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def row(*cells: Child, class_: str | None = None) -> ET.Element:
    """Make a row, whose first cell is its heading; what is a cell already stays as it is."""
    first, *others = cells
    made = [one if isinstance(one, ET.Element) and one.tag == "td" else tag("td", one) for one in others]
    return tag("tr", tag("th", first, scope="row"), *made, class_=class_)


def written(root: ET.Element) -> str:
    """Give the document of a tree."""
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"
