"""The page of errors has each of them, says what to do, and its messages are those that the mistakes get."""

from __future__ import annotations

import pytest

from nntrain import errors
from tests.docs.errors import MISTAKES, WITHOUT, classes, page
from tests.docs.test_docs import ROOT


def test_the_page_is_made_from_the_code() -> None:
    assert (ROOT / "docs/reference/errors.md").read_text() == page(), "python -m tests.docs.errors writes it anew"


def test_each_class_is_public_and_has_a_mistake_of_its_own() -> None:
    assert {one.__name__ for one in classes()} == set(errors.__all__)
    assert set(MISTAKES) | WITHOUT == set(classes())
    assert not set(MISTAKES) & WITHOUT


@pytest.mark.parametrize("kind", [one for one in classes() if one is not errors.NNTrainError])
def test_each_class_says_what_it_is_and_what_to_do(kind: type[BaseException]) -> None:
    assert len((kind.__doc__ or "").split("\n\n")) >= 2
