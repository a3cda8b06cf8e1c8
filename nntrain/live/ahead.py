"""Batches ahead: while one is worked on, the next is made, and sent to the device on a stream beside that of the work.

Invariant: a batch is what the loader's is at its position, whatever was asked for before. The one that waits is known
by its position; when another is asked for it is dropped, and the loader goes on at the position that was. So nothing
that restarts, goes back or breaks off can lose a batch, or see one twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.data.stream import Stream
from nntrain.live.resident import out_of_memory
from nntrain.values.key import Key
from nntrain.values.trees import contents, tensors_of, to_device, tree_map

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Sent(Generic[Batch]):
    """A batch that is on its way to a device: it is there once the work has waited for `arrival`."""

    batch: Batch
    arrival: Any
    reused: bool
    """Whether it is read from memory that the loader may use again."""


class Sender(Protocol):
    """What sends batches to a device."""

    def send(self, batch: Batch) -> Sent[Batch]:
        """Begin to send a batch, and wait for nothing."""
        ...

    def receive(self, sent: Sent[Batch]) -> Batch:
        """Let the work wait for a batch's arrival, and return the batch; the caller waits for nothing."""
        ...

    def released(self, sent: Sent[Any]) -> None:
        """Wait until a batch has left the memory that it was read from."""
        ...


class CudaSender:
    """Sends from pinned memory, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it untyped

    def send(self, batch: Batch) -> Sent[Batch]:
        """Copy what is not in pinned memory there, and launch the copies to the device."""
        reused = any(tensor.device.type == "cpu" and tensor.is_pinned() for tensor in tensors_of(batch))
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            there = to_device(tree_map(batch, _pinned), self.device)
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
            arrival.record(self._stream)
        return Sent(there, arrival, reused)

    def receive(self, sent: Sent[Batch]) -> Batch:
        """Let the current stream wait, and the allocator know that it uses memory of the other stream's."""
        current: Any = torch.cuda.current_stream(self.device)
        current.wait_event(sent.arrival)
        for tensor in tensors_of(sent.batch):
            if tensor.is_cuda:
                tensor.record_stream(current)
        return sent.batch

    def released(self, sent: Sent[Any]) -> None:
        """Wait for the copies; as a rule they have ended long ago."""
        sent.arrival.synchronize()


def sender_for(device: torch.device) -> Sender | None:
    """Return what sends batches to a device beside its work, None where nothing is to be sent."""
    return CudaSender(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class _Waiting(Generic[Batch]):
    """What was made ahead: a batch, on its way or not sent, the end of the data, or an error."""

    position: tuple[Key, int, int]
    sent: Sent[Batch] | None = None
    found: tuple[Batch] | None = None
    error: Exception | None = None


class Ahead(Generic[Batch]):
    """A stream's batches on a device, one ahead. Batches that are there already are made when they are asked for."""

    def __init__(self, stream: Stream[Batch], sender: Sender, device: torch.device) -> None:
        self._stream = stream
        self._sender = sender
        self._device = device
        self._waiting: _Waiting[Batch] | None = None

    def batch(self, key: Key, epoch: int, index: int, *, last: bool) -> tuple[Batch] | None:
        """Return batch `index` of `epoch` in a 1-tuple, or None past the last. After the `last` none is made ahead.

        An error of the loader's for the batch ahead is raised when that is asked for.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.position != (key, epoch, index):
            waiting = None  # before the next takes memory
            waiting = self._made(key, epoch, index)
        if waiting.error is not None:
            raise waiting.error
        if waiting.sent is None:
            return waiting.found
        if not last:
            if waiting.sent.reused:
                self._sender.released(waiting.sent)
            self._waiting = self._made(key, epoch, index + 1)
        return (self._sender.receive(waiting.sent),)

    def _made(self, key: Key, epoch: int, index: int) -> _Waiting[Batch]:
        position = key, epoch, index
        try:
            found = self._stream.batch(key, epoch, index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised when the batch is asked for
            return _Waiting(position, error=error)
        if found is None or not _is_to_be_sent(found[0], self._device):
            return _Waiting(position, found=found)
        try:
            return _Waiting(position, self._sender.send(found[0]))
        except Exception as error:
            if not out_of_memory(error):
                raise
        return _Waiting(position, found=found)  # there is no memory for it yet: it is moved when it is used


def _is_to_be_sent(batch: object, device: torch.device) -> bool:
    """Return whether a batch has a tensor elsewhere, and all of its tensors are known, so that none is freed early."""
    leaves = [*_leaves_of(batch)]
    known = all(isinstance(leaf, Tensor) or not callable(getattr(type(leaf), "to", None)) for leaf in leaves)
    return known and any(isinstance(leaf, Tensor) and leaf.device != device for leaf in leaves)


def _leaves_of(tree: object) -> Iterator[object]:
    held = None if isinstance(tree, Tensor) else contents(tree)
    if held is None:
        yield tree
        return
    for _, part in held.named():
        yield from _leaves_of(part)


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_pinned():
        return tensor
    return tensor.pin_memory()
