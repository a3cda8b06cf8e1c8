"""The laws of the testing kit, and the error for a broken one."""

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
    "batching",
    "merge",
    "value",
    "model",
]
"""The laws that the kit checks; `docs/reference/testing.md` says what each demands."""


class LawBrokenError(NNTrainError, AssertionError):
    """A broken law: `law` is its name, `subject` what breaks it, `said` what was seen, `run` the smallest such run."""

    def __init__(self, law: Law, subject: str, said: str, *, run: str = "") -> None:
        self.law: Law = law
        self.subject: str = subject
        self.said: str = said
        self.run: str = run
        shown = f"\n  The smallest run that shows it: {run}" if run else ""
        super().__init__(f"{subject} breaks the law of {law}: {said}{shown}")

    def with_run(self, run: str) -> LawBrokenError:
        """Return it with the run that shows it, unless it has one, and with the same cause."""
        error = LawBrokenError(self.law, self.subject, self.said, run=self.run or run)
        error.__cause__ = self.__cause__
        return error
