"""Tasks: a batch that means what its user says, against the loop by hand, and what those read who get a part wrong."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nntrain import (
    BatchOutput,
    Completed,
    DataLoaders,
    EarlyStopping,
    Engine,
    Learner,
    NanGuard,
    StepOutput,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    fit_step,
    supervised,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, DataError, DataWarning, LossError, StateError
from nntrain.log import BatchFinished, EpochFinished, JsonLog, read
from nntrain.update import optimizer

Batch = tuple[Tensor, Tensor]
SIZES = (8, 5, 8, 3)
VOCABULARY = 7


def pairs(seed: int = 0) -> list[Batch]:
    """Make batches of several sizes."""
    source = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, 5, generator=source), torch.randint(0, 3, (size,), generator=source)) for size in SIZES]


def linear() -> nn.Module:
    """Make the model."""
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def of(task: Any, **named: Any) -> Learner[Any, Any]:
    """Make a learner of a task."""
    return Learner.of(linear(), DataLoaders(pairs(), pairs(1)), task, optimizer(torch.optim.SGD, lr=0.1), **named)


def classify(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    """Do what the original does."""
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])


def two_terms(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    """Have a loss of two parts."""
    preds = model(batch[0])
    fits, small = cross_entropy(preds, batch[1]), preds.pow(2).mean()
    return StepOutput(fits + 0.1 * small, preds, batch[1], parts={"fits": fits, "small": small})


@pytest.mark.parametrize("how", ["supervised", "function"])
def test_the_originals_learner_is_the_simplest_task(how: str) -> None:
    dls = DataLoaders(pairs(), pairs(1))
    original = Learner(linear(), dls, cross_entropy, {"accuracy": accuracy}, torch.optim.SGD, 0.1)
    if how == "supervised":
        other = of(supervised(cross_entropy, {"accuracy": accuracy}))
    else:
        other = of(classify, metrics={"accuracy": accuracy})
    one, two = (made.fit(2, print_stats=False).state for made in (original, other))
    assert one == two
    assert one.history == two.history


class Tokens(nn.Module):
    """A language model with a loss of its own, as those of Hugging Face have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.head = nn.Linear(4, VOCABULARY)

    def forward(self, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean loss over the labels that are not -100."""
        logits = self.head(self.embed(tokens))
        return {"loss": cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100), "logits": logits}


def texts(seed: int) -> list[dict[str, Tensor]]:
    """Make batches of tokens, of which few have a label."""
    source = torch.Generator().manual_seed(seed)
    made = []
    for size in SIZES:
        tokens = torch.randint(0, VOCABULARY, (size, 6), generator=source)
        hidden = torch.rand(tokens.shape, generator=source) < 0.7
        hidden[0, 0] = False
        made.append({"tokens": tokens, "labels": tokens.masked_fill(hidden, -100)})
    return made


@pytest.mark.parametrize("weight", ["int", "tensor", "float"])
def test_a_model_with_its_own_loss_and_a_mean_over_tokens(weight: str) -> None:
    train, valid = texts(0), texts(1)

    def count(labels: Tensor) -> Any:
        tokens = (labels != -100).sum()
        return {"int": int(tokens), "tensor": tokens, "float": float(tokens)}[weight]

    def task(model: nn.Module, batch: dict[str, Tensor]) -> StepOutput[Tensor]:
        out = model(**batch)
        return StepOutput(out["loss"], out["logits"], weight=count(batch["labels"]))

    torch.manual_seed(0)
    model = Tokens()
    learner = Learner.of(model, DataLoaders(train, valid), task, optimizer(torch.optim.AdamW, lr=0.01))
    state = learner.fit(2, print_stats=False).state

    stepped = torch.optim.AdamW(model.parameters(), lr=0.01)
    seen = []
    for _ in range(2):
        for batches in (train, valid):
            total = tokens = 0.0
            for batch in batches:
                loss = model(**batch)["loss"]
                if batches is train:
                    stepped.zero_grad()
                    loss.backward()
                    stepped.step()
                weight_now = int((batch["labels"] != -100).sum())
                total, tokens = total + loss.item() * weight_now, tokens + weight_now
            seen.append((total / tokens, round(tokens)))
    assert all(torch.equal(state.params[name], param) for name, param in model.named_parameters())
    assert [(stats.loss, stats.samples) for stats in state.history] == seen


def test_parts_are_told_beside_the_loss_everywhere(tmp_path: Any) -> None:
    outputs: list[BatchOutput[Tensor]] = []

    class Sees(Subscriber[Batch, Tensor]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput[Tensor]) -> TrainState:
            outputs.append(output)
            return state

    file = tmp_path / "log.jsonl"
    stopping = EarlyStopping("small", patience=5)
    learner = of(two_terms, metrics={"accuracy": accuracy}, subs=[Sees(), stopping], sinks=[JsonLog(file, every="all")])
    state = learner.fit(2, print_stats=False).state
    assert [*state.history[0].metrics] == ["fits", "small", "accuracy"]
    weights = [len(target) for _, target in pairs()]
    for name in ("fits", "small", "accuracy"):
        of_batches = [float(output.metrics[name]) for output in outputs[: len(SIZES)]]
        mean = sum(one * weight for one, weight in zip(of_batches, weights, strict=True)) / sum(weights)
        assert state.history[0].metrics[name] == mean
    assert all(
        not output.metrics["small"].requires_grad for output in outputs if isinstance(output.metrics["small"], Tensor)
    )
    events = [line.event for line in read(file)]
    told = [event.metrics for event in events if isinstance(event, EpochFinished)]
    assert told == [dict(stats.metrics) for stats in state.history]
    of_log = [event.metrics["fits"] for event in events if isinstance(event, BatchFinished)]
    assert of_log == [float(output.metrics["fits"]) for output in outputs]
    plain = of(lambda model, batch: StepOutput(two_terms(model, batch).loss)).fit(2, print_stats=False).state
    assert all(torch.equal(param, state.params[name]) for name, param in plain.params.items())


def test_a_phase_with_parts_goes_on_from_any_batch(tmp_path: Any) -> None:
    learner = of(two_terms, metrics={"accuracy": accuracy})
    state, whole = (
        learner.init(0, epochs=1),
        of(two_terms, metrics={"accuracy": accuracy}).fit(1, print_stats=False).state,
    )
    while state.progress.at != "finished":
        save(state, tmp_path / "state")
        other = of(two_terms, metrics={"accuracy": accuracy})
        state = advance(other, load(tmp_path / "state", other)).state
    assert (state, state.history) == (whole, whole.history)


@pytest.mark.parametrize("guarded", [False, True])
def test_eval_needs_no_loss(capsys: pytest.CaptureFixture[str], guarded: bool) -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        output = classify(model, batch)
        return output if model.training else StepOutput(None, output.preds, output.target)

    outcome = of(task, metrics={"accuracy": accuracy}, subs=[NanGuard()] if guarded else []).fit(2)
    assert isinstance(outcome, Completed)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2].split("=")[0] for line in lines] == ["loss", "accuracy"] * 2
    trained, evaluated = outcome.state.history[:2]
    assert trained.has_loss
    assert not evaluated.has_loss
    assert math.isnan(evaluated.loss)
    reference = of(classify, metrics={"accuracy": accuracy}).fit(2, print_stats=False).state
    assert evaluated.metrics == reference.history[1].metrics
    assert all(torch.equal(param, reference.params[name]) for name, param in outcome.state.params.items())


@pytest.mark.sweep
def test_a_compiled_task_is_the_task() -> None:
    states = [
        of(two_terms, engine=Engine(compile=compile)).fit(1, print_stats=False).state
        for compile in (False, {"backend": "eager"})
    ]
    assert states[0] == states[1]


def wrong_loss(value: Any) -> Any:
    """Make a task that returns something else for a loss."""
    return lambda model, batch: StepOutput(value(model(batch[0]), batch[1]))


def backwarded(loss: Tensor) -> Tensor:
    """Go backward from a loss, as a loop of one's own does."""
    torch.autograd.backward(loss, retain_graph=True)
    return loss


def with_named(**named: Any) -> Any:
    """Make a task that returns something else beside the loss."""
    return lambda model, batch: StepOutput(cross_entropy(model(batch[0]), batch[1]), target=batch[1], **named)


def test_a_loss_fn_without_a_loss_is_told_what_it_returns() -> None:
    learner = of(supervised(lambda preds, target: None))  # type: ignore[arg-type,return-value] # a mistake
    with pytest.raises(LossError, match=r"^loss_fn .* returned no loss in training; expected one number as a 0-dim"):
        learner.fit(1, print_stats=False)


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        (lambda model, batch: model(batch[0]).mean(), LossError, r"returned float32\[\]; expected a StepOutput"),
        (lambda model, batch: None, LossError, "returned None"),
        (
            wrong_loss(lambda preds, target: None),
            LossError,
            r"^task .* no loss in training; expected StepOutput",
        ),
        (wrong_loss(lambda preds, target: 1.0), LossError, r"returned 1\.0; expected one number as a 0-dim tensor"),
        (wrong_loss(lambda preds, target: preds), LossError, r"returned float32\[8, 3\]; expected one number"),
        (wrong_loss(lambda preds, target: mse_loss(preds, preds).detach()), LossError, "a loss without a gradient"),
        (with_named(parts={"loss": torch.tensor(1.0)}), LossError, "named a part 'loss'"),
        (with_named(parts={"one": torch.ones(3)}), LossError, r"part one as float32\[3\]; expected one number"),
        (with_named(parts={"one": 1.0}), LossError, r"part one as 1\.0"),
        (with_named(parts={"metric": torch.tensor(1.0)}), LossError, "and so is a metric"),
        (
            with_named(parts=[torch.tensor(1.0)]),
            LossError,
            r"returned the parts list\(float32\[\]\); expected a mapping",
        ),
        (with_named(parts=None), LossError, "returned the parts NoneType; expected a mapping"),
        (
            wrong_loss(lambda preds, target: backwarded(cross_entropy(preds, target))),
            LossError,
            "left gradients of weigh",
        ),
        (with_named(weight=torch.tensor(-2.0)), DataError, r"returned the weight tensor\(-2"),
        (with_named(weight=-1), DataError, "returned the weight -1; expected how much the batch weighs"),
        (with_named(weight=math.nan), DataError, "returned the weight nan"),
        (with_named(weight=0), DataError, "returned the weight 0"),
        (with_named(weight=torch.ones(2)), DataError, r"returned the weight float32\[2\]"),
        (with_named(weight="many"), DataError, "returned the weight 'many'"),
    ],
)
def test_what_a_task_returns_is_looked_at(task: Any, error: type[Exception], said: str) -> None:
    learner = of(task, metrics={"metric": lambda preds, target: torch.tensor(0.0)})
    start = learner.init(0, epochs=1)
    before = dict(start.params)
    with pytest.raises(error, match=said) as caught:
        fit_step(learner, start)
    assert "task " in str(caught.value)
    assert all(torch.equal(param, start.params[name]) for name, param in before.items())


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (3, "task is 3; expected a function of"),
        (nn.Linear, "task is the class Linear; expected a function"),
        (lambda model: 1, r"cannot be called with \(model, batch\)"),
        (None, "task is None"),
    ],
)
def test_what_is_no_task_is_told_at_once(task: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        of(task)


def test_what_is_said_twice_is_told_at_once() -> None:
    learner = of(classify)
    with pytest.raises(ConfigError, match="loss_fn is given beside task"):
        learner.replace(loss_fn=cross_entropy)
    with pytest.raises(ConfigError, match="lr is given beside update"):
        learner.replace(lr=0.2)
    with pytest.raises(ConfigError, match="is given beside Engine"):
        Learner(
            linear(),
            DataLoaders(pairs(), pairs()),
            cross_entropy,
            {},
            torch.optim.SGD,
            0.1,
            device="cpu",
            engine=Engine(capture=True),
        )
    assert learner.replace(capture=True).engine == Engine(capture=True)
    assert learner.replace(engine=Engine(capture=True)).capture is True
    assert learner.replace(engine=Engine(capture=True)).replace(sinks=[]).capture is True


def test_parts_that_change_within_a_phase_are_told() -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        output = two_terms(model, batch)
        return output if len(batch[1]) == SIZES[0] else StepOutput(output.loss, output.preds, output.target)

    with pytest.raises(LossError, match="return the same parts for each"):
        of(task).fit(1, print_stats=False)


@pytest.mark.parametrize("first", [True, False])
def test_a_loss_of_some_batches_of_a_phase_is_told(first: bool) -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        output = classify(model, batch)
        has_loss = model.training or (len(batch[1]) == SIZES[0]) is first
        return output if has_loss else StepOutput(None, output.preds, output.target)

    with pytest.raises(LossError, match=f"returned {'no' if first else 'a'} loss, unlike for the batches .* before it"):
        of(task).fit(1, print_stats=False)


def test_a_loss_that_reaches_nothing_to_train_is_told() -> None:
    class Detached(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            hidden: Tensor = self[0](input)
            headed: Tensor = self[1](hidden)
            return hidden + headed.detach()

    head = optimizer(torch.optim.SGD, lr=0.1, params="1.*")
    model = Detached(nn.Linear(5, 3), nn.Linear(3, 3))
    learner: Learner[Batch] = Learner.of(model, DataLoaders(pairs()), supervised(cross_entropy), head)
    with pytest.raises(LossError, match=r"depends on none of the parameters that it is to train: 1.weight, 1.bias"):
        learner.fit(1, print_stats=False)
    assert learner.replace(update=optimizer(torch.optim.SGD, lr=0.1)).fit(1, print_stats=False).state.progress.step == 4


def test_how_a_task_says_what_a_batch_without_samples_weighs() -> None:
    def task(model: nn.Module, batch: int) -> StepOutput[Tensor]:
        preds = model(torch.randn(batch, 5))
        return StepOutput(preds.mean(), preds)

    learner = Learner.of(linear(), DataLoaders(range(1, 4)), task, optimizer(torch.optim.SGD, lr=0.1))
    with pytest.raises(DataError, match=r"batch \(int\) has no tensor .* in the means: StepOutput\(..., weight=...\)"):
        learner.fit(1, print_stats=False)


@pytest.mark.parametrize("said", ["nothing", "weight", "target"])
def test_samples_that_are_not_clear_are_warned_of(said: str) -> None:
    def task(model: nn.Module, batch: dict[str, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch["x"])
        target = batch["y"] if said == "target" else None
        return StepOutput(cross_entropy(preds, batch["y"]), preds, target, weight=8 if said == "weight" else None)

    edges = torch.zeros(2, 30)
    data = [{"edges": edges, "x": torch.randn(8, 5), "y": torch.zeros(8, dtype=torch.int64)}] * 3
    learner = Learner.of(linear(), DataLoaders(data), task, optimizer(torch.optim.SGD, lr=0.1))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        stats = learner.fit(1, print_stats=False).state.history[0]
    if said == "nothing":
        (one,) = told
        assert issubclass(one.category, DataWarning)
        assert re.search(r"disagree .* counts as 2 samples .* StepOutput\(..., weight=...\)", str(one.message))
    else:
        assert not told
    assert stats.samples == (6 if said == "nothing" else 24)


def test_the_learner_is_told_with_its_task_and_update() -> None:
    assert repr(of(classify)) == "Learner.of(Linear, classify, optimizer(SGD, lr=0.1), subs=[])"


def test_a_state_amid_a_phase_of_other_metrics_is_refused() -> None:
    learner = of(two_terms, metrics={"accuracy": accuracy})
    state = learner.init(0, epochs=1)
    for _ in range(3):
        state = advance(learner, state).state
    with pytest.raises(StateError, match="the metrics fits, small, accuracy; the learner has error"):
        advance(of(two_terms, metrics={"error": accuracy}), state)


def test_a_task_that_uses_another_model_is_refused() -> None:
    model = linear()

    def task(_: nn.Module, batch: Batch) -> StepOutput[None]:
        return StepOutput(cross_entropy(model(batch[0]), batch[1]))

    learner = Learner.of(model, DataLoaders(pairs(), pairs()), task, optimizer(torch.optim.SGD, lr=0.1))
    with pytest.raises(ConfigError, match="of the very module that was given as model"):
        learner.fit(1, print_stats=False)


def test_an_error_in_a_task_says_what_it_was_called_with() -> None:
    with pytest.raises(TypeError) as caught:
        of(cross_entropy).fit(1, print_stats=False)
    assert "raised by task cross_entropy, called with (model, batch)" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("monitor", ["loss", "far"])
def test_what_an_eval_without_a_loss_lacks_is_told(monitor: str) -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        output = classify(model, batch)
        return output if model.training else StepOutput(None, output.preds, output.target)

    with pytest.raises(ConfigError, match=f"monitors '{monitor}'; the eval phase has accuracy"):
        of(task, metrics={"accuracy": accuracy}, subs=[EarlyStopping(monitor)]).fit(1, print_stats=False)
