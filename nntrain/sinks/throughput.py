"""The sink that tells how fast a phase goes, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import torch

from nntrain.errors import ConfigError
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import Transition
from nntrain.values.numbers import is_count
from nntrain.values.progress import Progress


class _Told(NamedTuple):
    """Where a phase stood when it was told, and when that was."""

    place: Progress
    when: float


class ThroughputLog:
    """Log samples and batches a second, and the memory that is used, at each `every`th batch of a phase.

    The event log has them as `nntrain.throughput`, and `nntrain report` draws them: what torch's tensors take of a CUDA
    device, now and at most, and the most that the process had. Counted is all time between two looks, that of
    subscribers and sinks too. On a device that is some batches behind it is the time of the process, which agrees with
    the device's over many batches. Samples are those of weights that are whole numbers.

    Raises `ConfigError` for what is no number of batches.
    """

    def __init__(self, every: int = 50) -> None:
        if not is_count(every, 1):
            raise ConfigError(f"every is {every!r}; expected a whole number of batches, 1 or more.")
        self.every = every
        self._last: _Told | None = None

    @property
    def interest(self) -> Interest:
        """Each `every`th batch, and where phases begin."""
        return Interest(places=("batch", "before_epoch"), every_batch=self.every, tells=True)

    def __call__(self, transition: Transition, /) -> None:
        """Tell the rates since the phase began, or since they were told last."""
        now, place = time.perf_counter(), transition.state.progress
        last = self._last
        if transition.at == "before_epoch":
            self._last = _Told(place, now)
        elif transition.output is not None and not place.batch % self.every:
            self._last = _Told(place, now)
            if last is not None and _phase(last.place) == _phase(place) and last.when < now:
                from nntrain.values.looks import Throughput  # where nobody uses it, nobody waits for it

                taken = now - last.when
                transition.run.tell(
                    Throughput(
                        samples_per_s=max(place.samples - last.place.samples, 0) / taken,
                        batches_per_s=max(place.batch - last.place.batch, 0) / taken,
                        **_memory(torch.device(transition.run.device)),
                    )
                )


def _phase(place: Progress) -> tuple[object, ...]:
    return place.epoch, place.phase, place.data


def _memory(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"process_peak_bytes": _process_peak()}
    if device.type == "cuda":
        found["device_bytes"] = torch.cuda.memory_allocated(device)
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def _process_peak() -> int | None:
    """Return the most bytes that the process had in memory; None where the system does not tell it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
