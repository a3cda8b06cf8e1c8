"""matplotlib is imported by `nntrain.plots` and by nothing else, and its absence is said."""

from __future__ import annotations

import re
import sys
from importlib import import_module

import pytest

from nntrain.errors import MissingExtraError
from tests.test_rooms import modules


def test_no_other_room_imports_matplotlib() -> None:
    named = re.compile(r"^\s*(from|import) matplotlib", re.MULTILINE)
    found = {name for name, path in modules().items() if named.search(path.read_text())}
    assert {name.rpartition(".")[0] for name in found} == {"nntrain.plots"}


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("nntrain.plots"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"nntrain.plots needs matplotlib, .* pip install 'nntrain\[plot\]'"):
        import_module("nntrain.plots")
