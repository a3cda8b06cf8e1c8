"""The map is what the code is: its page is made anew, and what is drawn on it is held to the package by other means."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.map import (
    DECIDING,
    YOURS,
    Call,
    Function,
    Who,
    folded,
    followed,
    is_known,
    my_sink,
    numbered,
    one_batch,
    page,
    way,
    within,
)
from tests.docs.test_docs import ROOT, blocks
from tests.test_rooms import MAY_IMPORT, PACKAGE

PAGE = ROOT / "docs" / "reference" / "map.md"
ROOMS = sorted(path.stem for path in PACKAGE.iterdir() if path.name == "errors.py" or (path / "__init__.py").is_file())
MODULES = [path.relative_to(PACKAGE.parent) for path in sorted(PACKAGE.rglob("*.py"))]


def part(title: str) -> str:
    """Return the text under a heading of the committed page, up to the next one of its kind."""
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_is_made_from_the_code() -> None:
    assert PAGE.read_text() == page(), "python -m tests.docs.map writes it anew"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_on_the_page(room: str) -> None:
    (files,) = re.findall(rf"^\| `{room}` \| .+\. \| .* \| (\d+) \|$", part("The rooms"), re.MULTILINE)
    assert int(files) == len([path for path in MODULES if path.with_suffix("").parts[1] == room])
    assert f"\n### `{room}`\n" in part("What is in each room")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_is_on_the_page_with_a_sentence(path: Path) -> None:
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    (row,) = [line for line in part("What is in each room").splitlines() if line.startswith(f"| `{name}` |")]
    assert re.fullmatch(r"\| `[\w.]+` \| .+\. \|", row)


def test_the_chart_has_only_allowed_imports_and_leads_to_each_of_them() -> None:
    drawn, _, _ = blocks(PAGE, "mermaid")
    arrows = {tuple(line.split(" --> ")) for line in drawn.replace(" ", "").replace("-->", " --> ").splitlines()[1:]}
    assert {(room, lower) for room, lower in arrows if lower not in MAY_IMPORT[room]} == set()

    def reached(room: str) -> set[str]:
        return {lower for above, lower in arrows if above == room for lower in (lower, *reached(lower))}

    assert {room: reached(room) >= lower for room, lower in MAY_IMPORT.items()} == dict.fromkeys(MAY_IMPORT, True)
    for arrow in arrows:  # none of them is told by the others
        assert not any(arrow[1] in reached(lower) for above, lower in arrows if above == arrow[0])


def test_the_table_of_imports_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", part("Who may import whom"), re.MULTILINE)
    assert {room: frozenset(re.findall(r"`(\w+)`", others)) for room, others in rows} == MAY_IMPORT


# -- the way of a state -------------------------------------------------------------------------------------------


def crossing(calls: list[Call]) -> list[tuple[str, str]]:
    return [(call.caller, call.function.room) for call in within(calls) if call.caller != call.function.room]


def yours(calls: list[Call]) -> list[str]:
    return [call.function.name.rpartition(".")[2] for call in within(calls) if call.function.room == YOURS]


def test_a_subscriber_and_a_sink_are_on_the_way_where_they_watch() -> None:
    alone, watched = yours(way("nobody")), yours(way("somebody"))
    batch = ["before_batch", "forward", "loss_fn", "metric_fn", "after_batch", "my_sink"]
    train = ["before_epoch", "my_sink", *batch, *batch, "my_sink", "after_epoch", "my_sink"]
    evaluation = ["before_epoch", "my_sink", *batch, "my_sink", "after_epoch", "my_sink"]
    assert watched == ["before_fit", "my_sink", *train, *evaluation, "after_fit", "my_sink"]
    assert alone == ["forward", "loss_fn", "metric_fn"] * 3
    assert yours(one_batch(way("nobody"))) == alone[:3]
    assert yours(one_batch(way("somebody"))) == batch


@pytest.mark.parametrize("watching", ["nobody", "somebody"])
def test_the_way_is_within_the_imports_and_touches_what_it_must(watching: Who) -> None:
    (first,) = way(watching)
    assert (first.function.name, first.handed) == ("fit_step", True)
    steps = crossing(first.calls)
    assert {step for step in steps if YOURS not in step and step[1] not in MAY_IMPORT[step[0]]} == set()
    touched = {"data", "task", "live", "update", "metrics", YOURS, *["subscribers", "sinks"] * (watching == "somebody")}
    assert {room for _, room in crossing(one_batch([first]))} >= touched
    assert ("subscribers" in {room for _, room in steps}) == (watching == "somebody")


def test_no_function_is_shown_that_the_rule_leaves_out() -> None:
    for call in within([*way("nobody"), *way("somebody")]):
        function = call.function
        assert not re.search(r"[<>]|__", function.name)
        assert function.room in {DECIDING, YOURS} or not function.private
        assert call.handed or function.room == YOURS or call.caller != function.room


@pytest.mark.parametrize("watching", ["nobody", "somebody"])
def test_a_kept_state_changes_nothing_of_the_way(watching: Who) -> None:
    """The state that went in is kept, so the first batch makes a copy of it; a Python that is watched may keep more."""

    def written(calls: list[Call]) -> int:
        return sum(call.function.room == "update" for call in within(calls))

    assert written(way(watching)) == 2 * written(one_batch(way(watching))) > 0


def call(name: str, *inner: Call, line: int = 1) -> Call:
    return Call(
        Function("machine", "nntrain.machine.machine", name, f"Do {name}: well. More."), "machine", line, True, [*inner]
    )


def names(calls: list[Call]) -> list[object]:
    return [(one.function.name, names(one.calls)) if one.calls else one.function.name for one in calls]


def test_repeated_calls_are_folded_in_the_order_of_the_code() -> None:
    first = call("step", call("event", line=3), line=5)
    second = call("step", call("batch", line=2), call("event", call("leave"), line=3), line=5)
    last = [call("done", line=6), call("begin", line=4)]
    assert names(folded([first, second, *last])) == ["begin", ("step", ["batch", ("event", ["leave"])]), "done"]
    # the same function, called at two places with another between them
    assert names(folded([call("a", line=1), call("b", line=2), call("a", line=3)])) == ["a", "b", "a"]


def test_what_is_new_is_marked_and_what_is_not_is_closed() -> None:
    known = [call("fold", call("step", call("batch")))]
    watched = [call("fold", call("step", call("batch")), call("ask", call("publish")))]
    assert is_known(known[0], watched)
    assert not is_known(watched[0], known)
    assert [*numbered(watched, known)] == [
        "1. **`fold`** (machine): Do fold.",
        "    1. **`step`** (machine): Do step.",
        "    2. *new* **`ask`** (machine): Do ask.",
        "        1. **`publish`** (machine): Do publish.",
    ]


def test_following_ends_with_what_is_followed() -> None:
    def fails() -> None:
        my_sink(transition=...)  # type: ignore[arg-type] # it looks at nothing
        raise KeyError("within")

    before = sys.getprofile()
    with pytest.raises(KeyError, match="within"):
        followed(fails)
    assert sys.getprofile() is before
    (found,) = followed(lambda: my_sink(transition=...))  # type: ignore[arg-type] # same
    assert (found.function.name, found.function.room, found.handed) == ("my_sink", YOURS, False)
