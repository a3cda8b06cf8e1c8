"""No text in a log becomes anything but text on the report's page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nntrain.log import replay
from nntrain.log.report import document
from nntrain.log.report.scripts import script_json
from nntrain.log.report.series import by_epoch
from nntrain.log.text import number, one_line, seconds, size, visible, whole, word
from tests.log.pages import HOSTILE, Structure, hostile_page
from tests.log.samples import scripted


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Put a stand-in for the scripts into the pages of these tests: they take long to parse, and have no part here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "resource", lambda name: f"/* {name} */")
        yield


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text: str) -> None:
    structure = Structure(hostile_page(text))
    harmless = Structure(hostile_page(re.sub(r"[^\n]", "a", text)))
    assert structure.elements == harmless.elements
    assert structure.others == []
    shown = visible(text[:200])
    assert structure.text().count(shown.split("\n")[0]) > 10


@pytest.mark.sweep
@settings(deadline=None, max_examples=60)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*HOSTILE, "<", ">", "&", '"', "'", "/", "a", "="])).map("".join)))
def test_no_text_changes_the_structure(text: str) -> None:
    structure = Structure(hostile_page(text))
    harmless = Structure(hostile_page(re.sub(r"[^\n]", "a", text)))
    assert structure.elements == harmless.elements
    assert structure.others == []
    assert len(structure.scripts) == 3


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False), lambda inner: st.lists(inner)))
def test_data_in_a_script_ends_no_script_and_comes_back(value: object) -> None:
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert text.isascii()
    assert json.loads(text) == value


@given(st.text())
def test_no_control_character_nor_half_of_a_pair_gets_on_the_page(text: str) -> None:
    seen = visible(text)
    seen.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff]", seen)
    assert not re.search(r"[\n\r]", one_line(text, 1000))


def test_nothing_on_the_page_leads_elsewhere_or_runs_but_its_own_scripts() -> None:
    content = hostile_page(HOSTILE[0])
    structure = Structure(content)
    loading = {"src", "href", "srcset", "action", "data", "poster", "style", "formaction", "background"}
    names = {name for name, _ in structure.attributes}
    assert not names & loading
    assert not any(name.startswith("on") for name in names)
    library, data, draw = structure.scripts
    (policy,) = [value for name, value in structure.attributes if name == "content" and "default-src" in (value or "")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe" not in policy
    hashes = re.findall(r"'sha256-(.*?)'", policy)
    assert hashes == [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (library, draw)]
    json.loads(data)


def test_text_in_words() -> None:
    assert visible("a\x1b[0m\u202e\ud800\tb\n") == "a\\x1b[0m\\u202e\\ud800\tb\n"
    assert one_line("<b>\n%", 80) == "<b>\\n%"
    assert (number(None), number(math.nan), number(-math.inf), number(0.1234567)) == ("–", "nan", "-inf", "0.123457")
    assert (whole(1234567), whole(10**400)) == ("1,234,567", "about 10^400")
    assert (seconds(0.01), seconds(125), seconds(7260.0), seconds(math.nan)) == (
        "0.01 s",
        "2 min 05 s",
        "2 h 01 min",
        "nan",
    )
    assert (size(12), size(12345), size(5e12)) == ("12 bytes", "12.3 kB", "5 TB")
    assert word({"a": [1, 2.5, None, True, "x"]}) == '{a: [1, 2.5, null, true, "x"]}'
    (epochs, _) = by_epoch(replay(scripted())[0], lambda stats: stats.loss, 100)
    assert epochs.whole == 3
