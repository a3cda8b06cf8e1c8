"""The engine that launches what it recorded once, passes and optimizer steps: CUDA graphs, one for each shape of batch.

A recording is what a stretch of Python launched on the device, with the addresses it launched it on. Launching it again
costs microseconds, and runs no Python. So a batch is copied into the recording's own inputs; the gradients and the
output lie where the recording put them; and the buffers that it writes are counted as written by hand.

The pass and the optimizer's step are two recordings, launched one after the other, so that a subscriber of
`after_batch` is asked between them, as it is without recording. What cannot be recorded runs as always, and a note
for the log says why.

A shape's first batch always runs plainly: it makes the optimizer's memory, and the workspace sees what it writes. The
second is rehearsed (on a stream of its own, with all it writes put back), recorded, and launched.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.errors import DataError
from nntrain.live.eager import Eager
from nntrain.live.engine import Pass, Passed, Runner
from nntrain.live.flight import Flight
from nntrain.live.forward_writes import copy_all
from nntrain.live.workspace import Workspace
from nntrain.task.batches import structure
from nntrain.task.task import weight_of
from nntrain.values.log_event import Note
from nntrain.values.output import BatchOutput, StepOutput, without_graph
from nntrain.values.randomness import seed_all
from nntrain.values.sums import Weight, WeightedSums
from nntrain.values.trees import described, tree_map

Batch = TypeVar("Batch")
Tell = Callable[[Note], None]
_Shape = tuple[bool, object]
"""Whether it trains, and a batch's structure."""

MOST_SHAPES: Final = 8
"""How many shapes of batches a learner records; each holds memory for its inputs, activations and gradients."""


class Recorder(Protocol):
    """What records work for a device."""

    def rehearse(self, function: Callable[[], None]) -> None:
        """Run what is to be recorded, as it asks to be run before that."""
        ...

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record what `function` launches, without doing it; give what does it. Raises where that can't be."""
        ...


_CAPTURING: Final = threading.RLock()
"""One capture at a time in a process."""
_BROKEN: Final[list[torch.cuda.CUDAGraph]] = []
"""Graphs whose capture broke off. torch's allocator may go on asking them whose memory is whose, so they stay."""


class CudaGraphs:
    """Recordings as CUDA graphs, each with memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def rehearse(self, function: Callable[[], None]) -> None:
        """Run on a side stream, as torch asks for before a capture. Whatever waits for the device is refused here."""
        with _CAPTURING, torch.cuda.device(self.device):
            mode = torch.cuda.get_sync_debug_mode()  # here, where no other thread has it changed
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch leaves it untyped
            stream.wait_stream(torch.cuda.current_stream())
            torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.cuda.stream(stream):
                    function()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                torch.cuda.current_stream().wait_stream(stream)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture into a graph. Other threads, such as one that pins memory, may use CUDA meanwhile."""
        with _CAPTURING, torch.cuda.device(self.device):
            graph, outside = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                self._capture(graph, function)
            except BaseException:
                _BROKEN.append(graph)
                torch.cuda.set_stream(outside)  # torch stays on the capture's where that cannot be ended
                self._let_one_end_well()
                raise
        return graph.replay

    @staticmethod
    def _capture(graph: torch.cuda.CUDAGraph, function: Callable[[], object]) -> None:
        # A stream of its own: torch's default one is of the device on which the first capture was.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch leaves it untyped
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()

    def _let_one_end_well(self) -> None:
        """Take torch's generator out of a capture that broke off; torch 2.11 would leave it in, and refuse to draw."""
        with suppress(RuntimeError):  # of a device that can do nothing any more: the next batch says so
            number = torch.zeros((), device=self.device)
            self._capture(torch.cuda.CUDAGraph(), number.zero_)


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records on a device, None where nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None


class _Write:
    """The optimizer's step on one recording's gradients: plainly once, which makes its memory, then recorded."""

    def __init__(self, workspace: Workspace, grads: list[Tensor | None], recorder: Recorder, tell: Tell) -> None:
        self._workspace = workspace
        self._grads = grads
        self._recorder = recorder
        self._tell = tell
        self._launch: Callable[[], None] | None = None
        self._stepped: int | None = None
        self._decided: int | None = None
        """For which memory of the optimizer a step was taken, and whether to launch was decided: another memory may lie
        elsewhere, and may not have all that these gradients' parameters need."""

    def __call__(self, plain: Callable[[], None]) -> None:
        """Take the optimizer's step: launch its recording, or call `plain`."""
        optimizer = self._workspace.optimizer
        generation = optimizer.generation
        if self._stepped == generation and self._decided != generation and not optimizer.hooked:
            self._launch = self._recorded(plain)
            self._decided = generation
        if self._launch is None or optimizer.hooked or self._decided != generation:
            self._workspace.give_gradients(self._grads)
            plain()
            self._stepped = generation
        else:
            self._launch()

    def _recorded(self, plain: Callable[[], None]) -> Callable[[], None] | None:
        workspace = self._workspace
        why = workspace.optimizer.unrecordable(workspace.device)
        if why is None:
            workspace.give_gradients(self._grads)
            try:
                return self._recorder.record(plain)
            except Exception as error:  # noqa: BLE001 - whatever it is, the step is taken plainly
                why = _failure(error)
        self._tell(Note("capture.optimizer", f"the optimizer's step is not recorded: {why}"))
        return None


@dataclass
class _Recording:
    """One shape's pass: how it is launched, its inputs, and where it puts what it makes."""

    launch: Callable[[], None]
    inputs: list[Tensor]
    weight: Weight
    output: BatchOutput
    measured: StepOutput[Any]
    """The output, target and weight where the recording puts them, for metrics that remember: these run plainly."""
    summed: Tensor
    written: list[Tensor]
    """The buffers that the model writes."""
    write: _Write

    def run(self, tensors: list[Tensor]) -> None:
        """Launch it on a batch's tensors."""
        copy_all(self.inputs, tensors)
        self.launch()


class Recorded(Generic[Batch]):
    """Runs a pass as the recording of its batch's shape; what has none runs eagerly."""

    def __init__(self, plain: Pass[Batch], eager: Eager[Batch], recorder: Recorder, tell: Tell) -> None:
        self.names: tuple[str, ...] = plain.names
        self.supervised: bool = plain.supervised
        self.carrying: tuple[str, ...] = ()
        self._pass = plain
        self._eager = eager
        self._workspace = plain.workspace
        self._recorder = recorder
        self._tell = _once(tell)
        self._recordings: dict[_Shape, _Recording | None] = {}
        """What was recorded for each shape; None where it can't be."""
        self._met: set[_Shape] = set()
        """The shapes whose first batch ran."""

    def run(self, batch: Batch, weighted: WeightedSums, flight: Flight, *, bits: int, seen: bool) -> Passed:
        """Pass a batch through: by its shape's recording, or eagerly."""
        tensors: list[Tensor] = []
        recording, train = None, flight.step is not None
        try:
            shape = (train, structure(batch, tensors))
        except DataError as error:
            self._note("capture.batch", f"batches are not recorded: {error}")
        else:
            recording = self._recording(batch, shape, train=train, bits=bits)
        if recording is None:
            return self._eager.run(batch, weighted, flight, bits=bits, seen=seen)
        workspace = self._workspace
        seed_all(workspace.generators, bits)
        workspace.replay(lambda: recording.run(tensors), recording.written)
        flight.weight = recording.weight
        if train:
            flight.launch = recording.write
        output = recording.output.copied() if seen else recording.output
        means = (output.loss, *output.metrics.values())
        samples = recording.weight if isinstance(recording.weight, int) else 0
        memory = self._pass.remember(weighted, recording.measured)
        after = weighted.plus(recording.summed, tuple(output.metrics), memory=memory, has_loss=output.has_loss)
        return Passed(output, samples, after, means, flight.lr_scale)

    def _recording(self, batch: Batch, shape: _Shape, *, train: bool, bits: int) -> _Recording | None:
        if shape in self._recordings:
            return self._recordings[shape]
        if sum(one is not None for one in self._recordings.values()) >= MOST_SHAPES:
            self._note("capture.shape", f"{MOST_SHAPES} shapes are recorded; batches of any other run plainly")
            return None
        if shape not in self._met:
            self._met.add(shape)
            if any(made is not None and train == for_train for (for_train, _), made in self._recordings.items()):
                self._note("capture.shape", f"a first batch of {described(batch)} runs plainly; the next is recorded")
            return None
        try:
            made = self._record(batch, train=train, bits=bits)
        except Exception as error:  # noqa: BLE001 - the batch itself then runs plainly, and raises what is the user's
            self._note("capture.pass", f"batches of {described(batch)} are not recorded: {_failure(error)}")
            made = None
        self._recordings[shape] = made
        return made

    def _record(self, batch: Batch, *, train: bool, bits: int) -> _Recording:
        """Rehearse and record a pass; nothing of it stays but the recording."""
        workspace, plain = self._workspace, self._pass
        own: Batch = tree_map(batch, torch.clone)
        inputs: list[Tensor] = []
        structure(own, inputs)
        made: list[tuple[BatchOutput, StepOutput[Any], Tensor, list[Tensor | None], Weight]] = []

        def whole() -> None:
            plain.begin(train=train)
            with torch.set_grad_enabled(train):
                output = plain.evaluate(own, train=train)
                if train and output.loss is not None and output.loss.requires_grad:
                    output.loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            grads = workspace.gradients()
            if any(grad is not None and grad.layout != torch.strided for grad in grads):
                raise TypeError("the model has sparse gradients")
            workspace.keep_identity()
            weight = weight_of(output, own, plain.task, checked=self.supervised)
            taken = without_graph(output, torch.detach, weight)
            measured = plain.measure(taken, own, output.weight)
            loss = torch.full((), math.nan, device=workspace.device) if taken.loss is None else taken.loss
            means = [loss, *measured.values()]
            if not all(isinstance(mean, Tensor) for mean in means):
                raise TypeError("a metric returns a Python number, which waits for the device; return a tensor")
            summed = WeightedSums.summed(means, weight, workspace.device)
            shown = BatchOutput(loss, taken.preds, MappingProxyType(measured), taken.loss is not None)
            made.append((shown, taken, summed, grads, weight))

        launches: list[Callable[[], None]] = []
        seed_all(workspace.generators, bits)
        seeded = torch.default_generator.get_state()
        written = workspace.rehearse(lambda: self._recorder.rehearse(whole), train=train)
        if workspace.device.type != "cpu" and not torch.equal(seeded, torch.default_generator.get_state()):
            raise TypeError("the step draws random numbers on the CPU, which a recording would not draw again")
        made.clear()
        seed_all(workspace.generators, bits)
        workspace.rehearse(lambda: launches.append(self._recorder.record(whole)), train=train)
        ((output, measured, summed, grads, weight),) = made
        (launch,) = launches
        write = _Write(workspace, grads, self._recorder, self._tell)
        return _Recording(launch, inputs, weight, output, measured, summed, written, write)

    def _note(self, code: str, text: str) -> None:
        self._tell(Note(code, text))


def _once(tell: Tell) -> Tell:
    """Return a function that tells each note once."""
    told: set[Note] = set()

    def tell_once(note: Note) -> None:
        if note not in told:
            told.add(note)
            tell(note)

    return tell_once


def recorded(passes: Mapping[str, Pass[Batch]], eager: Eager[Batch], tell: Tell) -> Runner[Batch]:
    """Return the engine that records, where that can be; where not, the eager one, and a note says why."""
    plain = next(iter(passes.values()))
    workspace = plain.workspace
    recorder = recorder_for(workspace.device)
    if recorder is None:
        tell(Note("capture.device", f"capture=True does nothing on {workspace.device}; it is for CUDA"))
        return eager
    if "" not in passes:
        tell(Note("capture.optimizer", "several objectives write one after the other; nothing is recorded"))
        return eager
    if plain.carries:
        tell(Note("capture.pass", "batches go on where the one before them ended; nothing is recorded"))
        return eager
    if plain.remembers:
        named = ", ".join(plain.remembers.whole)
        tell(Note("capture.metric", f"what {named} remembers is updated after each recorded pass, and not recorded"))
    if workspace.needs_closure:
        who = "an update rule" if workspace.optimizer.evaluates_apart else workspace.optimizer.kind
        tell(Note("capture.optimizer", f"{who} evaluates the model itself; nothing is recorded"))
        return eager
    if workspace.optimizer.scales_loss:
        tell(Note("capture.optimizer", "an update rule changes the loss in Python; nothing is recorded"))
        return eager
    return Recorded(plain, eager, recorder, tell)


def _failure(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
