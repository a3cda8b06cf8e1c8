"""A subscriber that can be replaced by another in the same learner."""

from __future__ import annotations

from functools import partial
from typing import Any

from nntrain.subscribers.asking import hears, subscriber_name
from nntrain.subscribers.protocol import EVENTS, Listening, Subscriber
from nntrain.values.verdicts import Event


class StandIn(Subscriber[Any]):
    """Answers as `inner` does, which may be replaced by one of its kind. It has no `order`, whatever `inner` has."""

    def __init__(self, inner: Listening[Any]) -> None:
        self.inner = inner
        self.name: str = subscriber_name(inner)
        for event in EVENTS:
            if hears(inner, event):
                setattr(self, event, partial(self._ask, event))

    def _ask(self, event: Event, *seen: object) -> object:
        answer: object = getattr(self.inner, event)(*seen)
        return answer
