"""The docstrings of all that is public, as Markdown pages: griffe reads the code, and nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe


def write_pages(folder: Path, names: tuple[str, ...], root: Path) -> None:
    """Write a page for each module of `names`, and an index of them; a page that is right already is left alone."""
    package = griffe.load("nntrain", search_paths=[root])
    pages = {name: page(name, package.modules_collection[name]) for name in names}
    pages["index"] = "\n".join([*INDEX, *(f"* [{name}]({name}.md)" for name in names), "", *toctree(names)])
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text() != text:  # else Sphinx would read all of them again
            path.write_text(text)


INDEX = (
    "# Docstrings",
    "",
    "What is public, as its code says it. [What is public](../api.md) has a line of each on one page.",
    "",
)


def toctree(names: tuple[str, ...]) -> list[str]:
    """Return the table of contents that stands at the side."""
    return ["```{toctree}", ":hidden:", "", *names, "```", ""]


def page(name: str, module: griffe.Object) -> str:
    """Return a module's page."""
    public = [str(one).strip("'\"") for one in module.exports or ()]
    parts = [f"# {name}", *said(module)]
    for one in public:
        found = module[one]
        parts += part(one, found.final_target if isinstance(found, griffe.Alias) else found)
    return "\n\n".join(parts) + "\n"


def part(name: str, found: griffe.Object) -> Iterator[str]:
    """Yield what is said of a name: a heading, how it is written, its docstring, and its members."""
    yield f"## {name}"
    yield f"```python\n{written(name, found)}\n```"
    yield from said(found)
    if not isinstance(found, griffe.Class):
        return
    for member in found.members.values():
        own = not member.name.startswith("_") or member.name == "__call__"
        if own and isinstance(member, (griffe.Function, griffe.Attribute)) and member.docstring:
            yield f"### {name}.{member.name}"
            yield f"```python\n{written(member.name, member)}\n```"
            yield from said(member)


def written(name: str, found: griffe.Object) -> str:
    """Return how a name is called or declared, in Python."""
    if isinstance(found, griffe.Class):
        bases = ", ".join(str(base) for base in found.bases)
        head = f"class {name}({bases})" if bases else f"class {name}"
        called = f"\n{name}({arguments(found.parameters)})" if len(found.parameters) > 1 else ""
        return head + called
    if isinstance(found, griffe.Function):
        returns = f" -> {found.returns}" if found.returns is not None else ""
        return f"{name}({arguments(found.parameters)}){returns}"
    if isinstance(found, griffe.Attribute):
        kind = f": {found.annotation}" if found.annotation is not None else ""
        value = f" = {found.value}" if found.value is not None and not kind else ""
        return f"{name}{kind}{value}"
    return name


def arguments(parameters: griffe.Parameters) -> str:
    """Return a list of arguments: on one line where it fits, else on a line each."""
    told: list[str] = []
    kind = griffe.ParameterKind
    for one in parameters:
        if one.name in {"self", "cls"}:
            continue
        star = {kind.var_positional: "*", kind.var_keyword: "**"}.get(one.kind or kind.positional_or_keyword, "")
        if one.kind is kind.keyword_only and not any(each.startswith("*") for each in told):
            told.append("*")
        annotation = f": {one.annotation}" if one.annotation is not None else ""
        default = "" if one.default is None or star else f" = {one.default}" if annotation else f"={one.default}"
        told.append(f"{star}{one.name}{annotation}{default}")
    line = ", ".join(told)
    return line if len(line) <= 80 else "\n    " + ",\n    ".join(told) + ",\n"


def said(found: griffe.Object) -> list[str]:
    """Return the docstring. Its examples, which begin with `>>>`, are Markdown too once they are indented."""
    if found.docstring is None:
        return []
    parts = found.docstring.value.strip().split("\n\n")
    return [f"```pycon\n{one}\n```" if one.startswith(">>> ") else with_stars(one) for one in parts]


def with_stars(text: str) -> str:
    """Return a text in which the stars of products, as in C*H*W, stay stars."""
    outside_code = re.compile(r"(`[^`]*`)|(?<=\w)\*(?=\w)")
    return outside_code.sub(lambda found: found[1] or r"\*", text)
