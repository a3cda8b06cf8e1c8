"""HTML as a tree that the standard library writes. Markup is never made by joining strings: all text stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from nntrain.log.text import LONGEST, visible

Child = ET.Element | str | None


def tag(name: str, /, *children: Child, **attributes: str | bool | None) -> ET.Element:
    """Return an element. All text is escaped by `nntrain.log.text.visible`.

    In an attribute's name `_` stands for `-`, and one at its end is dropped (`class_`). None and False leave an
    attribute out; True gives one without a value.
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
    """Return a script element. `code` is not escaped: it must be our own, or come from `script_json`."""
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("This text would end the script that it is to be in.")
    element = tag("script", **attributes)
    element.text = code
    return element


def style(sheet: str) -> ET.Element:
    """Return a style element. `sheet` is not escaped: it must be our own."""
    element = tag("style")
    element.text = sheet
    return element


def long_text(text: str, shown: int = 240) -> ET.Element:
    """Return an element with text of any length: a long one shows its beginning, and all after a click."""
    if len(text) <= shown and text.count("\n") < 6:
        return tag("span", text, class_="text")
    full = text[:LONGEST]
    if len(text) > LONGEST:
        full += f"… ({len(text):,} characters; the log has all)"
    first = text[:shown].split("\n", maxsplit=1)[0]
    return tag("details", tag("summary", f"{first}…"), tag("span", full, class_="text"))


def table(head: Iterable[Child], rows: Iterable[ET.Element], caption: str, **attributes: str | None) -> ET.Element:
    """Return a table, in a box that scrolls if the table is wider than the page."""
    columns = [tag("th", one, scope="col") for one in head]
    made = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *columns)),
        tag("tbody", *rows),
        **attributes,
    )
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def row(*cells: Child, class_: str | None = None, data_of: str | None = None) -> ET.Element:
    """Return a row whose first cell is its heading. A child that is already a `td` stays as it is.

    `data_of` is the place of the run that it is about, with which the page hides it.
    """
    first, *others = cells
    made = [one if isinstance(one, ET.Element) and one.tag == "td" else tag("td", one) for one in others]
    return tag("tr", tag("th", first, scope="row"), *made, class_=class_, data_of=data_of)


def to_html(root: ET.Element) -> str:
    """Return the tree as the text of a document."""
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"
