"""What people turn on, all at once, beside a loop by hand that does the same: `python -m tests.benchmarks.toolkit`.

bf16, `accumulate(4)`, clipping by norm, AdamW with a cosine after a warm-up, an average of the weights, a metric of the
whole phase (a confusion matrix) and a progress bar, drawn four times a second. Every loop comes to the same weights and
figures, as a test holds. Times are seconds of the processor, of many short rounds in turn in one process, for which all
is made anew several times. `best` is of the shortest of each, `median` of the ratios within rounds. What a peer does
not have is written by hand, as its users would.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import Any, Final

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import DataLoaders, Engine, Learner, Metric, ProgressBar, StepOutput, TrainState, supervised
from nntrain.schedules import cosine
from nntrain.update import accumulate, chain, clip_norm, ema, optimizer
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.report import heading, table
from tests.benchmarks.rounds import Timed, made_anew
from tests.benchmarks.setting import Batch, Batches, InMemory, Loop, Prepared, Reported, batches_of, model_of

WINDOW: Final = 4
LR: Final = 1e-3
WARMUP: Final = 2
MAX_NORM: Final = 1.0
DECAY: Final = 0.9
EVERY: Final = 0.25
HAND: Final = "hand-written"


def steps_of(train: Batches) -> int:
    """Return how many steps an epoch has, of which none is of fewer batches: peers differ in what they do of such."""
    if len(train) % WINDOW:
        raise ValueError(f"{len(train)} batches; expected a multiple of {WINDOW}")
    return len(train) // WINDOW


def rate(step: int, steps: int) -> float:
    """Return the learning rate: up in a line, and down as a cosine."""
    if step < WARMUP:
        return LR * step / WARMUP
    return LR * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - WARMUP) / (steps - WARMUP))))


def matrix_of(preds: Tensor, target: Tensor) -> Tensor:
    """Return how often each class (rows) was predicted as each (columns)."""
    return torch.bincount(target * 10 + preds.argmax(1), minlength=100).view(10, 10)


def share_of(matrix: Tensor) -> float:
    """Return the accuracy that a confusion matrix has."""
    return float(matrix.diag().sum() / matrix.sum())


class Matrix(Metric[Tensor]):
    """The same as a metric of a phase."""

    def init(self) -> Tensor:
        return torch.zeros(10, 10, dtype=torch.int64)

    def update(self, memory: Tensor, output: StepOutput[Tensor], /) -> Tensor:
        return memory + matrix_of(output.preds, output.target)

    def merge(self, one: Tensor, other: Tensor, /) -> Tensor:
        return one + other

    def compute(self, memory: Tensor, /) -> float:
        return share_of(memory)


def averaged(average: list[Tensor], params: list[nn.Parameter]) -> None:
    """Take the weights into the average."""
    with torch.no_grad():
        if average:
            torch._foreach_lerp_(average, [*params], 1 - DECAY)  # pyright: ignore[reportPrivateImportUsage] # torch's fused ones
        else:
            average.extend(param.clone() for param in params)


def weights_of(model: nn.Module, average: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return a model's weights, and their averages under "ema."."""
    names = [f"ema.{name}" for name, _ in model.named_parameters()]
    return {**model.state_dict(), **dict(zip(names, average, strict=True))}


class Bar:
    """tqdm's bar with the mean loss, drawn four times a second: for the loops that are written by hand."""

    def __init__(self, batches: Batches) -> None:
        self._bar: Any = tqdm(total=len(batches), file=io.StringIO(), leave=False, miniters=1, mininterval=0)
        self._due = 0.0

    def show(self, done: int, loss: float) -> None:
        if time.monotonic() >= self._due:
            self._bar.set_postfix_str(f"loss={loss:.3f}", refresh=False)
            self._bar.update(done - self._bar.n)
            self._due = time.monotonic() + EVERY

    def close(self) -> None:
        self._bar.close()


def hand_written(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare the loop that all are measured by."""
    model = copy.deepcopy(model)
    params = list(model.parameters())
    optim = torch.optim.AdamW(params, lr=LR)
    steps = steps_of(train)
    average: list[Tensor] = []
    figures: list[float] = []

    def stepped(step: int) -> None:
        nn.utils.clip_grad_norm_(params, MAX_NORM)
        for group in optim.param_groups:
            group["lr"] = rate(step, steps)
        optim.step()
        optim.zero_grad()
        averaged(average, params)

    def fit() -> None:
        average.clear()
        figures.clear()
        for training, batches in ((True, train), (False, valid)):
            model.train(training)
            bar, matrix = Bar(batches), torch.zeros(10, 10, dtype=torch.int64)
            loss_sum, samples = 0.0, 0
            for done, (inputs, target) in enumerate(batches, start=1):
                with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
                    preds = model(inputs)
                    loss = nn.functional.cross_entropy(preds, target)
                if training:
                    (loss / WINDOW).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                    if done % WINDOW == 0:
                        stepped(done // WINDOW - 1)
                loss_sum += loss.item() * len(inputs)
                samples += len(inputs)
                matrix = matrix + matrix_of(preds.detach(), target)
                bar.show(done, loss_sum / samples)
            bar.close()
            figures.extend((loss_sum / samples, share_of(matrix)))

    return Prepared(fit, lambda: Reported(weights_of(model, average), *figures))


def by_nntrain(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare nntrain."""
    states: list[TrainState] = []
    rate = cosine(LR, steps=steps_of(train), warmup_steps=WARMUP)
    learner = Learner.of(
        model,
        DataLoaders(train, valid),
        supervised(nn.functional.cross_entropy),
        chain(accumulate(WINDOW), clip_norm(MAX_NORM), optimizer(torch.optim.AdamW, lr=rate), ema(DECAY)),
        metrics={"accuracy": Matrix()},
        sinks=[ProgressBar(io.StringIO())],
        engine=Engine(precision="bf16"),
    )
    learner.init()  # sets the learner up, as the others are

    def fit() -> None:
        states.clear()  # nobody keeps the one before
        states.append(learner.fit(1, print_stats=False).state)

    def report() -> Reported:
        (state,) = states
        before, after = state.history
        return Reported(
            weights_of(state.to_module(), list(state.to_module(weights="ema").parameters())),
            before.loss,
            before.metrics["accuracy"],
            after.loss,
            after.metrics["accuracy"],
        )

    return Prepared(fit, report)


def lightning(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare Lightning's Trainer. Its own average would be evaluated in the place of the weights."""
    lightning: Any = importlib.import_module("lightning")
    metrics: Any = importlib.import_module("torchmetrics.classification")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    average: list[Tensor] = []
    steps = steps_of(train)

    class Module(lightning.LightningModule):  # type: ignore[misc] # a peer is Any
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model)
            self.scores = nn.ModuleDict(
                {phase: metrics.MulticlassAccuracy(10, average="micro") for phase in ("train_", "valid_")}
            )

        def scored(self, batch: Batch, phase: str) -> Tensor:
            inputs, target = batch
            preds = self.model(inputs)
            loss = nn.functional.cross_entropy(preds, target)
            self.scores[phase](preds.detach(), target)
            self.log(f"{phase}loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(target))
            self.log(f"{phase}accuracy", self.scores[phase], on_step=False, on_epoch=True)
            return loss

        def training_step(self, batch: Batch) -> Tensor:
            return self.scored(batch, "train_")

        def validation_step(self, batch: Batch) -> None:
            self.scored(batch, "valid_")

        def optimizer_step(self, *args: Any, **named: Any) -> None:
            super().optimizer_step(*args, **named)
            averaged(average, list(self.model.parameters()))

        def configure_optimizers(self) -> Any:
            optim = torch.optim.AdamW(self.model.parameters(), lr=LR)
            schedule = torch.optim.lr_scheduler.LambdaLR(optim, lambda step: rate(step, steps) / LR)
            return {"optimizer": optim, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module = Module()

    def fit() -> None:
        average.clear()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            trainer.fit(module, InMemory(train), InMemory(valid))

    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=1,
        accumulate_grad_batches=WINDOW,
        gradient_clip_val=MAX_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )

    def report() -> Reported:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        names = (f"{phase}_{figure}" for phase in ("train", "valid") for figure in ("loss", "accuracy"))
        return Reported(weights_of(module.model, average), *(found[name] for name in names))

    return Prepared(fit, report)


def accelerate(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare a loop by hand with Accelerate in it."""
    accelerate: Any = importlib.import_module("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=WINDOW)
    own = copy.deepcopy(model)
    model, optim = accelerator.prepare(own, torch.optim.AdamW(own.parameters(), lr=LR))
    average: list[Tensor] = []
    figures: list[float] = []
    steps = steps_of(train)

    def fit() -> None:
        average.clear()
        figures.clear()
        for training, batches in ((True, train), (False, valid)):
            model.train(training)
            bar, matrix = Bar(batches), torch.zeros(10, 10, dtype=torch.int64)
            loss_sum, samples, step = 0.0, 0, 0
            for done, (inputs, target) in enumerate(batches, start=1):
                with torch.set_grad_enabled(training), accelerator.accumulate(model):
                    preds = model(inputs)
                    loss = nn.functional.cross_entropy(preds, target)
                    if training:
                        accelerator.backward(loss)
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(own.parameters(), MAX_NORM)
                            optim.param_groups[0]["lr"] = rate(step, steps)
                            step += 1
                        optim.step()
                        optim.zero_grad()
                        if accelerator.sync_gradients:
                            averaged(average, list(own.parameters()))
                loss_sum += loss.item() * len(inputs)
                samples += len(inputs)
                matrix = matrix + matrix_of(preds.detach(), target)
                bar.show(done, loss_sum / samples)
            bar.close()
            figures.extend((loss_sum / samples, share_of(matrix)))

    return Prepared(fit, lambda: Reported(weights_of(own, average), *figures))


OWN: Final[Mapping[str, Loop]] = {HAND: hand_written, "nntrain": by_nntrain}
EQUIPPED: Final[Mapping[str, Peer]] = {
    "lightning": PEERS["lightning"]._replace(loop=lightning),
    "accelerate": PEERS["accelerate"]._replace(loop=accelerate),
}


def seconds_of(loop: Loop, model: nn.Module, train: Batches, valid: Batches, *, anew: bool) -> Callable[[], float]:
    """Return what fits once and returns the processor's seconds that it took, whatever else the machine does.

    With `anew` all is made ready anew before, and not counted: most peers fit once.
    """
    prepared = loop(model, train, valid)
    prepared.fit()

    def once() -> float:
        ready = loop(model, train, valid) if anew else prepared
        began = time.process_time()
        ready.fit()
        return time.process_time() - began

    return once


def compared(batch_size: int, options: argparse.Namespace, loops: Mapping[str, Loop]) -> list[list[str]]:
    """Measure the loops with batches of a size. Gives the rows of the table."""
    train, valid = (batches_of(count, batch_size) for count in (options.batches, max(1, options.batches // 6)))

    def made() -> dict[str, Timed]:
        model = model_of("mlp")
        return {name: seconds_of(loop, model, train, valid, anew=name in EQUIPPED) for name, loop in loops.items()}

    rounds = made_anew(made, options.times, options.rounds, may_fail=EQUIPPED)
    count = len(train) + len(valid)
    rows = []
    for name, seconds in rounds.seconds.items():
        more = (min(seconds) - min(rounds.seconds[HAND])) / count * 1e6
        ratios = f"{rounds.best(name, HAND):.3f}", f"{rounds.ratio(name, HAND).median:.3f}"
        rows.append([name, str(batch_size), *ratios, f"{more:+.1f}"])
    for name, error in rounds.failures.items():
        rows.append([f"{name} failed: {type(error).__name__}", str(batch_size), "", "", ""])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.toolkit", description=__doc__)
    parser.add_argument("--times", type=int, default=6, help="how often all loops are made anew (default 6)")
    parser.add_argument("--rounds", type=int, default=12, help="how often each is then timed (default 12)")
    parser.add_argument("--batches", type=int, default=60, help="of an epoch; a sixth more to evaluate (default 60)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], metavar="SIZE")
    parser.add_argument("--no-peers", action="store_true", help="leave out the other libraries")
    options = parser.parse_args(argv)
    loops: dict[str, Loop] = {**OWN}
    absent = []
    for name, peer in EQUIPPED.items() if not options.no_peers else ():
        if peer.installed:
            loops[name] = peer.loop
        else:
            absent.append(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print(heading([f"{name} {version(name)}" for name in loops if name in EQUIPPED]))
        print(
            f"mlp on CPU with bf16, accumulate({WINDOW}), clipping, AdamW by a cosine with warm-up, an average, a "
            f"confusion matrix and a bar; {options.batches} batches an epoch, {options.times} times "
            f"{options.rounds} rounds"
        )
        if absent:
            print(f"not installed: {', '.join(absent)} (the dependency group `peers` of pyproject.toml)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers warn of workers and of deprecations
            rows = [row for size in options.batch_sizes for row in compared(size, options, loops)]
        print(table(["loop", "batch", "best", "median", "µs more a batch"], rows))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
