"""Ctrl-C and SIGTERM wait for the end of a step: real signals, to real processes that run the functions `child_...`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Interest,
    Learner,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    state_before,
)
from nntrain.checkpoint import load, save
from nntrain.errors import Terminated
from nntrain.machine.interrupts import held_back
from tests.sampled import one_in

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals are POSIX's")

Batch = tuple[Tensor, Tensor]
ROOT = Path(__file__).parents[2]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(2, 3, generator=SOURCE), torch.randint(0, 2, (2,), generator=SOURCE)) for _ in range(6)]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Listens(Subscriber[Batch]):
    """Has each batch stepped on its own."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state


class Last:
    """Tells of errors, and saves the state that remains."""

    def __init__(self, path: str | None = None, **wishes: Any) -> None:
        self.path = path
        self.interest = Interest(**{"every_batch": False, **wishes})

    def __call__(self, transition: Transition) -> None:
        if transition.error is not None:
            say("told", type(transition.error).__name__, str(transition.state.progress.step))
            if self.path is not None:
                save(transition.state, self.path)


def learner_of(*sinks: Last, loss_fn: Callable[[Any, Any], Tensor] = cross_entropy, **changes: Any) -> Learner[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    sgd = torch.optim.SGD
    return Learner(model, DataLoaders(DATA, DATA[:2]), loss_fn, accuracy, sgd, 0.1, sinks=sinks, **changes)


# -- children ----------------------------------------------------------------------------------------------------------


def say(*what: str) -> None:
    print(*what, flush=True)


def waiting(call: int, then: Callable[[], None] = lambda: None) -> Callable[[Any, Any], Tensor]:
    """Give a loss function that says "amid" when it is called so many times, and waits for a line."""
    calls: list[int] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == call:
            say("amid")
            sys.stdin.readline()
            then()
        return cross_entropy(preds, target)

    return loss_fn


def again() -> None:
    say("still amid")
    sys.stdin.readline()
    say("went on")


def fails() -> None:
    raise ValueError("at the same time")


@contextmanager
def surroundings() -> Iterator[None]:
    try:
        yield
    finally:
        say("with")


def trained(learner: Learner[Any]) -> None:
    """Run a fit inside blocks that say when they end."""
    try:
        with surroundings():
            learner.fit(2, print_stats=False)
    finally:
        say("finally")


def child_with_last_words(path: str, call: str, listening: str) -> None:
    others = [Last(), Last(last_words=False)]
    subs = [Listens()] if listening == "listening" else []
    trained(learner_of(others[0], Last(path, last_words=True), others[1], loss_fn=waiting(int(call)), subs=subs))


def child_without() -> None:
    trained(learner_of(Last(), Last(last_words=False), loss_fn=waiting(3)))


def child_with_a_handler_of_its_own(when: str) -> None:
    def own(*_: object) -> None:
        say("own")

    class Installs:
        def __call__(self, transition: Transition) -> None:
            if transition.at == "before_epoch":
                signal.signal(signal.SIGTERM, own)

    if when == "before":
        signal.signal(signal.SIGTERM, own)
    learner = learner_of(Last(last_words=True), loss_fn=waiting(3))
    if when == "amid":
        learner = learner.replace(sinks=[*learner.sinks, Installs()])
    trained(learner)
    say("its own" if signal.getsignal(signal.SIGTERM) is own else "another")


def child_that_ignores_it() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trained(learner_of(Last(last_words=True), loss_fn=waiting(3)))


def child_that_waits_twice() -> None:
    trained(learner_of(Last(last_words=True), loss_fn=waiting(3, again)))


def child_that_waits_for_its_last_words() -> None:
    class Slow(Last):
        def __call__(self, transition: Transition) -> None:
            if transition.error is not None:
                say("saving")
                sys.stdin.readline()
                say("saved")
            super().__call__(transition)

    trained(learner_of(Slow(last_words=True), loss_fn=waiting(3, again)))


def child_that_fails() -> None:
    trained(learner_of(Last(last_words=True), loss_fn=waiting(3, fails)))


def child_in_a_thread() -> None:
    thread = threading.Thread(target=lambda: trained(learner_of(Last(last_words=True), loss_fn=waiting(3))))
    thread.start()
    thread.join()


def child_after_a_fit() -> None:
    trained(learner_of(Last(last_words=True)))
    say("amid")
    sys.stdin.readline()
    say("not reached")


def child_that_catches_it() -> None:
    learner = learner_of(Last(last_words=True), loss_fn=waiting(3))
    try:
        learner.fit(2, print_stats=False)
    except Terminated as ended:
        state = state_before(ended)
        say("state", str(state is not None and state.progress.step), str(ended.code))
    say(*(str(signal.getsignal(one) is plain) for one, plain in zip(SIGNALS, PLAIN, strict=True)))


def child_that_advances() -> None:
    learner = learner_of(Last(last_words=True), loss_fn=waiting(3))
    state = learner.init(epochs=1)
    try:
        while True:
            state = advance(learner, state).state
    finally:
        say("kept", str(state.progress.step))


PLAIN: tuple[Any, ...] = (signal.default_int_handler, signal.SIG_DFL)


NURSERY = """
import json, os, signal, sys
import torch
from tests.machine import test_interrupts as own

torch.set_num_threads(1)
own.learner_of().machine  # with an optimizer torch imports most of what it has
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
for line in sys.stdin:
    folder, name, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
sys.stdin = open(folder + "/in")
for number, way in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{folder}/{way}", os.O_WRONLY), number)
getattr(own, name)(*arguments)
"""
"""Imports everything once, and is forked for each child, which then is a Python process as any other."""


class Child:
    """A process that runs one of these functions."""

    def __init__(self, nursery: subprocess.Popen[str], folder: Path, name: str, arguments: tuple[str, ...]) -> None:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        self.folder = folder
        self.nursery = nursery.stdout
        for way in ("in", "out"):
            os.mkfifo(folder / way)
        (folder / "err").touch()
        nursery.stdin.write(json.dumps((str(folder), name, arguments)) + "\n")
        nursery.stdin.flush()
        self.pid = int(self.nursery.readline())
        self.code: int | None = None
        self.watchdog = threading.Timer(60, self.send, (signal.SIGKILL,))
        self.watchdog.start()
        self.stdin = (folder / "in").open("w")
        self.stdout = (folder / "out").open()

    def wait_for(self, line: str) -> None:
        said = ""
        while said.strip() != line:
            said = self.stdout.readline()
            assert said, f"it ended before it said {line!r}: {(self.folder / 'err').read_text()}"

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def go_on(self) -> None:
        self.stdin.write("\n")
        self.stdin.flush()

    def ended(self) -> tuple[int, list[str], str]:
        """Wait for its end; give its code, what it still said, and its complaints."""
        said = self.stdout.read().splitlines()
        self.code = int(self.nursery.readline())
        return self.code, said, (self.folder / "err").read_text()

    def close(self) -> None:
        self.watchdog.cancel()
        if self.code is None:
            self.send(signal.SIGKILL)
            self.ended()
        self.stdin.close()
        self.stdout.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture
def children(nursery: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., Child]]:
    begun: list[Child] = []

    def begin(name: str, *arguments: str) -> Child:
        begun.append(Child(nursery, tmp_path, name, arguments))
        return begun[-1]

    yield begin
    for child in begun:
        child.close()


Children = Callable[..., Child]


# -- SIGTERM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listening", one_in(2, ["listening", "fast"]))
@pytest.mark.parametrize(
    ("call", "step"),
    [(1, 1), *(pytest.param(*one, marks=pytest.mark.sweep) for one in ((4, 4), (6, 6), (7, 6), (10, 8)))],
)
def test_a_sink_with_last_words_is_told_with_the_whole_state(
    tmp_path: Path, children: Children, call: int, step: int, listening: str
) -> None:
    """In training, and in eval, which are the 7th and 8th calls."""
    path = tmp_path / "state.safetensors"
    child = children("child_with_last_words", str(path), str(call), listening)
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    child.go_on()
    code, said, complaints = child.ended()
    assert (code, complaints) == (143, "")
    assert said == [*[f"told Terminated {step}"] * 3, "with", "finally"]
    learner = learner_of()
    state = load(path, learner)
    assert state.progress.batch > 0
    assert state.sums.batches > 0
    assert fit_step(learner, state).state == learner.fit(2, print_stats=False).state


def test_without_one_it_ends_at_once_as_always(children: Children) -> None:
    child = children("child_without")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    assert child.ended() == (-signal.SIGTERM, [], "")


@pytest.mark.sweep
@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.sweep), "amid"])
def test_an_application_s_own_handler_is_left_alone(children: Children, when: str) -> None:
    child = children("child_with_a_handler_of_its_own", when)
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    child.go_on()
    assert child.ended() == (0, ["own", "with", "finally", "its own"], "")


@pytest.mark.sweep
def test_one_that_ignores_it_goes_on_ignoring_it(children: Children) -> None:
    child = children("child_that_ignores_it")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    child.go_on()
    assert child.ended() == (0, ["with", "finally"], "")


def sent_amid_a_step(children: Children, name: str, first: int) -> Child:
    """Begin a process, send it a signal amid a step, and return it when it has held that back."""
    child = children(name)
    child.wait_for("amid")
    child.send(first)
    child.go_on()
    child.wait_for("still amid")
    return child


@pytest.mark.sweep
@pytest.mark.parametrize("first", [pytest.param(signal.SIGTERM, marks=pytest.mark.sweep), signal.SIGINT])
def test_a_second_ctrl_c_ends_the_wait(children: Children, first: int) -> None:
    child = sent_amid_a_step(children, "child_that_waits_twice", first)
    child.send(signal.SIGINT)
    ended, said, _ = child.ended()
    assert (ended, said) == (-signal.SIGINT, ["told KeyboardInterrupt 2", "with", "finally"])


@pytest.mark.parametrize(
    ("first", "code", "name"),
    [
        (signal.SIGTERM, 143, "Terminated"),
        pytest.param(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt", marks=pytest.mark.sweep),
    ],
)
def test_a_further_request_to_end_changes_nothing(children: Children, first: int, code: int, name: str) -> None:
    """It comes from a launcher, which hands on what the process was sent itself: in the step, in the last save."""
    child = sent_amid_a_step(children, "child_that_waits_for_its_last_words", first)
    child.send(signal.SIGTERM)
    child.go_on()
    child.wait_for("saving")
    child.send(signal.SIGTERM)
    child.go_on()
    ended, said, _ = child.ended()
    assert (ended, said) == (code, ["saved", f"told {name} 3", "with", "finally"])


@pytest.mark.sweep
def test_a_step_that_fails_meanwhile_ends_it_no_less(children: Children) -> None:
    child = children("child_that_fails")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    child.go_on()
    assert child.ended() == (143, ["told ValueError 2", "with", "finally"], "")


def test_in_another_thread_nothing_is_installed(children: Children) -> None:
    child = children("child_in_a_thread")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    assert child.ended() == (-signal.SIGTERM, [], "")


def test_after_a_fit_it_ends_at_once(children: Children) -> None:
    child = children("child_after_a_fit")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    assert child.ended() == (-signal.SIGTERM, [], "")


def test_it_can_be_caught_by_its_name_and_leads_to_the_state(children: Children) -> None:
    child = children("child_that_catches_it")
    child.wait_for("amid")
    child.send(signal.SIGTERM)
    child.go_on()
    assert child.ended() == (0, ["told Terminated 3", "state 3 143", "True True"], "")


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(15, 143, "Terminated"), pytest.param(2, -2, "KeyboardInterrupt", marks=pytest.mark.sweep)],
)
def test_a_single_transition_is_finished_too(children: Children, number: int, code: int, name: str) -> None:
    child = children("child_that_advances")
    child.wait_for("amid")
    child.send(number)
    child.go_on()
    ended, said, _ = child.ended()
    assert (ended, said) == (code, [f"told {name} 3", "kept 2"])


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", one_in(2, ["child_without", "child_that_catches_it"]))
def test_ctrl_c_waits_for_the_end_of_the_step(children: Children, name: str) -> None:
    child = children(name)
    child.wait_for("amid")
    child.send(signal.SIGINT)
    child.go_on()
    code, said, complaints = child.ended()
    assert code == -signal.SIGINT
    assert said[0] == "told KeyboardInterrupt 3"
    assert complaints.splitlines()[-2].startswith("KeyboardInterrupt: interrupted")
    assert "nntrain.state_before(error) gives the state before it" in complaints.splitlines()[-1]


# -- handlers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> Iterator[None]:
    """Python's own handlers, which a shell's background job starts without."""
    before = [signal.signal(one, handler) for one, handler in zip(SIGNALS, PLAIN, strict=True)]
    yield
    for one, handler in zip(SIGNALS, before, strict=True):
        signal.signal(one, handler)


def installed() -> tuple[Any, ...]:
    return tuple(signal.getsignal(one) for one in SIGNALS)


@pytest.mark.parametrize(
    ("last_words", "replaced"), [(True, [True, True]), (False, [True, False]), (None, [True, False])]
)
def test_handlers_are_in_place_for_the_fit_and_no_longer(
    plain: None, last_words: bool | None, replaced: list[bool]
) -> None:
    amid: list[tuple[Any, ...]] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        amid.append(installed())
        if len(amid) == failing:
            raise ValueError("no loss")
        return cross_entropy(preds, target)

    failing = 0
    sink = Last() if last_words is None else Last(last_words=last_words)
    learner = learner_of(sink, loss_fn=loss_fn)
    learner.fit(1, print_stats=False)
    assert [one is not of for one, of in zip(amid[0], PLAIN, strict=True)] == replaced
    assert installed() == PLAIN
    failing = len(amid) + 3
    with pytest.raises(ValueError, match="no loss"):
        learner.fit(1, print_stats=False)
    assert installed() == PLAIN
    advance(learner, learner.init(epochs=1))
    assert installed() == PLAIN


def test_in_another_thread_the_handlers_stay(plain: None) -> None:
    amid: list[tuple[Any, ...]] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        amid.append(installed())
        return cross_entropy(preds, target)

    learner = learner_of(Last(last_words=True), loss_fn=loss_fn)
    thread = threading.Thread(target=lambda: learner.fit(1, print_stats=False))
    thread.start()
    thread.join()
    assert set(amid) == {PLAIN}
    assert len(amid) == 8


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["ctrl-c", "sigterm"]
)
def test_one_that_comes_after_the_last_look_is_not_lost(plain: None, number: int, kind: type[BaseException]) -> None:
    after: list[int] = []

    def press() -> None:
        with held_back(terminate=True):
            assert signal.getsignal(number) not in PLAIN
            signal.raise_signal(number)
            after.append(1)

    with pytest.raises(kind):
        press()
    assert after == [1]
    assert installed() == PLAIN


def test_one_that_was_let_through_is_raised_once(plain: None) -> None:
    with held_back(terminate=True) as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.pressed == signal.SIGTERM
        error = interrupts.made()
        assert isinstance(error, Terminated)
        with pytest.raises(Terminated) as caught:
            interrupts.let_through(error)
        assert caught.value is error
    assert installed() == PLAIN


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
@pytest.mark.parametrize("number", one_in(2, SIGNALS))
def test_a_process_forked_amid_a_step_has_its_signals_as_they_were(plain: None, number: int) -> None:
    with held_back(terminate=True) as interrupts:
        child = os.fork()
        if child == 0:
            code = 5
            try:
                signal.raise_signal(number)
                code = 6
            except KeyboardInterrupt:
                code = 7
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert interrupts.pressed is None
    assert os.waitstatus_to_exitcode(status) == (7 if number == signal.SIGINT else -signal.SIGTERM)


@pytest.mark.sweep
def test_the_error_is_one_that_ends_a_process() -> None:
    error = Terminated()
    assert isinstance(error, SystemExit)
    assert not isinstance(error, Exception)
    assert error.code == 143 == 128 + signal.SIGTERM
