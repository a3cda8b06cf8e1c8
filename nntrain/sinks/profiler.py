"""The sink that has torch's profiler watch some steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import torch

from nntrain.errors import ConfigError
from nntrain.sinks.interest import Interest
from nntrain.sinks.transition import Transition
from nntrain.values.numbers import is_count
from nntrain.values.progress import Phase

_SLOWEST: Final = 20
"""How many operators the log has."""


class Profiler:
    """Profile `steps` optimizer steps after the first `start`, with `torch.profiler`, and write the trace to `path`.

    The trace is one of Chrome's, for chrome://tracing or ui.perfetto.dev; with a name that ends with `.gz` it is
    compressed. The log has an event, `nntrain.profiled`, with the slowest operators. Steps that are not profiled cost
    nothing. It is one range, once: where the train phase, or the fit, ends before, it has what there was till then.
    Only one profiler can run in a process; of several processes that train together the first has it.

    `options` are more arguments of `torch.profiler.profile`: `record_shapes=True`, `with_stack=True` ... Raises
    `ConfigError` for what cannot be meant.
    """

    def __init__(self, path: str | os.PathLike[str], *, start: int = 10, steps: int = 5, **options: object) -> None:
        self.path: Path = Path(path)
        if self.path.is_dir():
            raise ConfigError(f"Profiler: {self.path} is a folder; expected the trace's file, like trace.json.gz.")
        for name, given, least in (("start", start, 0), ("steps", steps, 1)):
            if not is_count(given, least):
                raise ConfigError(f"Profiler: {name} is {given!r}; expected a whole number of {least} or more.")
        self.start = start
        self.steps = steps
        self.options = options
        self._running: torch.profiler.profile | None = None
        self._first = 0
        self._done = False

    @property
    def interest(self) -> Interest:
        """The steps at which the range begins and ends, and all that is no batch."""
        return Interest(every_batch=False, wants=self._wants, tells=True)

    def _wants(self, phase: Phase, step: int) -> bool:
        return phase == "train" and not self._done and step >= self._next

    @property
    def _next(self) -> int:
        """The number of steps that lie behind where something is to be done next."""
        return self.start if self._running is None else self._first + self.steps

    def __call__(self, transition: Transition, /) -> None:
        """Begin the range, or end it."""
        place = transition.state.progress
        training = place.phase == "train" and place.at == "batch" and transition.error is None
        if self._done or not transition.run.first_rank:
            return
        if self._running is not None and (not training or place.step >= self._next):
            self._end(transition)
        elif self._running is None and training and place.step >= self._next:
            self._begin(transition)

    def _begin(self, transition: Transition) -> None:
        on_cuda = transition.run.device.startswith("cuda")
        kinds = torch.profiler.ProfilerActivity
        activities = [kinds.CPU, *([kinds.CUDA] if on_cuda else [])]
        options: dict[str, Any] = {"activities": activities, **self.options}
        running = torch.profiler.profile(**options)
        running.start()
        self._running, self._first = running, transition.state.progress.step

    def _end(self, transition: Transition) -> None:
        """Write what was profiled; of no step nothing, and the next train phase is waited for."""
        running, self._running = self._running, None
        if running is None:
            return
        from nntrain.values.looks import OperatorTime, Profiled  # where nobody uses it, nobody waits for it

        running.stop()
        last = transition.state.progress.step
        if last == self._first:
            return
        self._done = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        running.export_chrome_trace(str(self.path))
        times = sorted(running.key_averages(), key=_self_time, reverse=True)
        transition.run.tell(
            Profiled(
                path=str(self.path),
                first=self._first,
                last=last - 1,
                slowest=tuple(
                    OperatorTime(
                        name=one.key,
                        calls=one.count,
                        seconds=one.self_cpu_time_total / 1e6,
                        device_seconds=one.self_device_time_total / 1e6,
                    )
                    for one in times[:_SLOWEST]
                ),
            )
        )


def _self_time(one: Any) -> float:
    time: float = one.self_cpu_time_total + one.self_device_time_total
    return time
