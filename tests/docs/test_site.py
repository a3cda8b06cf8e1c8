"""The site as a browser shows it: wide and narrow, light and dark, without a network; its search finds.

It is looked at as it was built: `uv run --group site sphinx-build -W docs docs/_build/html` comes before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT
from tests.log.browser import CHROMIUM, Browser

BUILT = ROOT / "docs" / "_build" / "html"

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the package chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


def pages() -> list[Path]:
    return sorted(page for page in BUILT.rglob("*.html") if page.name not in {"genindex.html", "search.html"})


def test_it_was_built() -> None:
    assert len(pages()) > 40


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)], ids=["narrow, dark", "wide, light"])
def test_no_page_is_wider_than_the_window_asks_for_the_network_or_complains(
    browser: Browser, width: int, dark: bool
) -> None:
    for page in pages():
        browser.open(page, width=width, dark=dark)
        name = page.relative_to(BUILT)
        assert browser.value("document.documentElement.scrollWidth") <= width, name
        assert browser.complaints() == [], name
        assert [one for one in browser.requested() if not one.startswith(("file:", "data:"))] == [], name


def test_the_search_works_without_a_network(browser: Browser) -> None:
    browser.open(BUILT / "search.html")
    browser.value("location.search = '?q=state_before'")
    browser.wait("document.querySelector('#search-results li a[href*=\"reference/errors.html\"]')")


def test_a_diagram_is_a_picture_that_can_be_read_when_narrow(browser: Browser) -> None:
    browser.open(BUILT / "reference" / "machine.html", width=400)
    browser.wait("document.querySelector('.diagram img').naturalWidth > 0")
    assert browser.value("document.querySelector('.diagram img').clientWidth") >= 500
