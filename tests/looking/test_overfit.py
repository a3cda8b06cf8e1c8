"""The check is a hand-written training on one batch, and leaves state and learner as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Transition, fit_step, state_before, supervised
from nntrain.errors import ConfigError
from nntrain.looking import overfit_one_batch
from nntrain.update import accumulate, chain, optimizer
from tests.looking.setting import DATA, Batch, learner_of, make_model


def by_hand(batch: Batch, steps: int) -> tuple[list[float], list[float]]:
    model = make_model().train()
    optim = torch.optim.Adam(model.parameters(), lr=0.01)
    losses, hits = [], []
    for _ in range(steps):
        optim.zero_grad()
        preds = model(batch[0])
        loss = cross_entropy(preds, batch[1])
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        optim.step()
        losses.append(loss.item())
        hits.append((preds.argmax(1) == batch[1]).float().mean().item())
    return losses, hits


@pytest.mark.parametrize("accumulates", [False, True])
def test_it_is_a_hand_written_training_on_one_batch(accumulates: bool) -> None:
    learner = learner_of()
    if accumulates:
        update = chain(accumulate(4), optimizer(torch.optim.Adam, lr=0.01))
        task: Any = supervised(cross_entropy, learner.metric_fn)
        learner = Learner.of(make_model(), DataLoaders(DATA, DATA[:2]), task, update)
    found = overfit_one_batch(learner, learner.init(), DATA[3], steps=25, share=0.2)
    losses, hits = by_hand(DATA[3], 25)
    assert list(found.losses) == pytest.approx(losses, rel=1e-4)
    assert list(found.metrics["accuracy"]) == pytest.approx(hits)
    assert found.passed
    assert not found.model_copy(update={"share": 1e-9}).passed
    assert "25 steps" in str(found)
    assert "passed" in str(found)


def test_nothing_is_touched_and_nobody_is_told() -> None:
    told: list[Transition] = []
    learner = learner_of(dropout=0.5, sinks=[told.append])
    state, kept = (learner_of(dropout=0.5).fit(1, print_stats=False).state for _ in range(2))
    one, same = (overfit_one_batch(learner, state, steps=3) for _ in range(2))
    assert one == same == overfit_one_batch(learner, state, DATA[0], steps=3)
    assert state == kept
    assert not told
    assert fit_step(learner, state, 1).state == fit_step(learner_of(dropout=0.5), kept, 1).state


def test_it_has_the_rates_of_the_state_s_own_steps() -> None:
    def lr(step: int) -> float:
        return 0.1 if step >= 5 else 0.0

    learner = learner_of(lr=lr, optim_class=torch.optim.SGD)
    assert len(set(overfit_one_batch(learner, learner.init(), steps=4).losses)) == 1
    state = learner.fit(1, print_stats=False).state
    assert overfit_one_batch(learner, state, steps=4).losses[-1] < 0.9 * overfit_one_batch(learner, state).losses[0]


def test_a_failure_leads_to_the_state() -> None:
    learner = learner_of()
    state = learner.init()
    with pytest.raises(RuntimeError) as failed:
        overfit_one_batch(learner, state, (torch.zeros(2, 5), torch.zeros(2)))
    assert state_before(failed.value) is state


@pytest.mark.parametrize(
    ("given", "said"), [({"steps": 1}, "steps is 1"), ({"steps": True}, "steps is True"), ({"share": 0}, "share is 0")]
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    learner = learner_of()
    with pytest.raises(ConfigError, match=said):
        overfit_one_batch(learner, learner.init(), **given)
