"""How a broken law is told: which law, what was seen, and the smallest run that shows it."""

from __future__ import annotations

from typing import Literal

from nntrain.errors import NNTrainError

Law = Literal[
    "answers",
    "immutability",
    "determinism",
    "resume",
    "branch",
    "observers",
    "no waste",
    "manners",
    "effects",
    "order",
    "means",
]
"""The laws that the kit holds what others write to; `docs/reference/testing.md` says what each demands."""


class LawBrokenError(NNTrainError, AssertionError):
    """A law that something does not keep. `law` is which, `subject` what breaks it, `said` what was seen."""

    def __init__(self, law: Law, subject: str, said: str, *, run: str = "") -> None:
        self.law: Law = law
        self.subject: str = subject
        self.said: str = said
        self.run: str = run
        shown = f"\n  The smallest run that shows it: {run}" if run else ""
        super().__init__(f"{subject} breaks the law of {law}: {said}{shown}")

    def of(self, run: str) -> LawBrokenError:
        """Give it with the run that shows it, unless it says one already, and the same cause."""
        told = LawBrokenError(self.law, self.subject, self.said, run=self.run or run)
        told.__cause__ = self.__cause__
        return told
