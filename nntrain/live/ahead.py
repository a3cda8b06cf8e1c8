"""Batches ahead: while one is worked on, the next is made, and sent to the device on a stream beside that of the work.

Invariant: a batch is what the loader's is at its position, whatever was asked for before. The one that waits is known
by its position; when another is asked for it is dropped, and the loader goes on at the position that was. So nothing
that restarts, goes back or breaks off can lose a batch, or see one twice. What is sent shares no memory with what the
loader gave, which it may use again for the next; what cannot be copied so is made when it is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.data.stream import Stream
from nntrain.values.key import Key
from nntrain.values.trees import contents, detached, tensors_of, to_device

Batch = TypeVar("Batch")
_CONSTANT: Final = (type(None), bool, int, float, complex, str, bytes, torch.Size)
"""The classes of what a batch may have beside tensors, and nobody can write to."""


@dataclass(frozen=True)
class Sent(Generic[Batch]):
    """A batch that is on its way to a device: it is there once the work has waited for `arrival`."""

    batch: Batch
    arrival: Any
    reads: bool
    """Whether it is read from memory of the loader's until then."""


class Sender(Protocol):
    """What sends batches to a device."""

    def send(self, batch: Batch) -> Sent[Batch]:
        """Begin to send a batch, and wait for nothing."""
        ...

    def receive(self, sent: Sent[Batch]) -> Batch:
        """Let the work wait for a batch's arrival, and return the batch; the caller waits for nothing."""
        ...

    def wait(self, arrival: Any) -> None:
        """Wait until a batch has arrived, and so has left the memory that it was read from."""
        ...


class CudaSender:
    """Sends from pinned memory, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it untyped

    def send(self, batch: Batch) -> Sent[Batch]:
        """Copy what is not in pinned memory there, and launch the copies to the device."""
        reads = any(tensor.is_pinned() for tensor in tensors_of(batch))
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            there: Batch = to_device(detached(batch, _pinned), self.device)
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
            arrival.record(self._stream)
        return Sent(there, arrival, reads)

    def receive(self, sent: Sent[Batch]) -> Batch:
        """Let the current stream wait, and the allocator know that it uses memory of the other stream's."""
        current: Any = torch.cuda.current_stream(self.device)
        current.wait_event(sent.arrival)
        for tensor in tensors_of(sent.batch):
            tensor.record_stream(current)
        return sent.batch

    def wait(self, arrival: Any) -> None:
        """Wait for the copies; as a rule they have ended long ago."""
        arrival.synchronize()


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
    """A stream's batches on a device, one ahead of the work."""

    def __init__(self, stream: Stream[Batch], sender: Sender) -> None:
        self._stream = stream
        self._sender = sender
        self._waiting: _Waiting[Batch] | None = None
        self._read: Any = None
        """The arrival of the batch that may still be read from memory of the loader's."""

    def batch(self, key: Key, epoch: int, index: int, *, last: bool) -> tuple[Batch] | None:
        """Return batch `index` of `epoch` in a 1-tuple, or None past the last. After the `last` none is made ahead.

        An error of the loader's for the batch ahead is raised when that is asked for. A batch that is not sent is given
        as the loader made it, and the next is then made when it is asked for.
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
            self._waiting = self._made(key, epoch, index + 1)
        return (self._sender.receive(waiting.sent),)

    def _made(self, key: Key, epoch: int, index: int) -> _Waiting[Batch]:
        position = key, epoch, index
        read, self._read = self._read, None
        if read is not None:
            self._sender.wait(read)
        try:
            found = self._stream.batch(key, epoch, index)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised when the batch is asked for
            return _Waiting(position, error=error)
        sent = None if found is None else self._sent(found[0])
        if sent is None:
            return _Waiting(position, found=found)
        self._read = sent.arrival if sent.reads else None
        return _Waiting(position, sent)

    def _sent(self, batch: Batch) -> Sent[Batch] | None:
        """Send a batch; None for one that is moved when it is due, and raises then what is wrong with it."""
        try:
            return self._sender.send(batch) if _can_be_sent(batch) else None
        except Exception:  # noqa: BLE001 - such as that there is no memory for two
            return None


def _can_be_sent(batch: object) -> bool:
    """Return whether all that a batch holds is copied when it is sent: plain tensors of the CPU, and constants."""
    some = False
    for leaf in _leaves_of(batch):
        if type(leaf) is Tensor:
            # Of other layouts the allocator cannot be told which stream uses them.
            if leaf.device.type != "cpu" or leaf.layout != torch.strided or leaf.is_nested:
                return False
            some = True
        elif type(leaf) not in _CONSTANT:
            return False
    return some


def _leaves_of(tree: object) -> Iterator[object]:
    held = None if isinstance(tree, Tensor) else contents(tree)
    if held is None:
        yield tree
        return
    for _, part in held.named():
        yield from _leaves_of(part)


def _pinned(tensor: Tensor) -> Tensor:
    """Return a copy in pinned memory, with the strides that it would have on the device; what is there stays."""
    return tensor if tensor.is_pinned() else torch.empty_like(tensor, pin_memory=True).copy_(tensor)
