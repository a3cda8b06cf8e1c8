"""What a sink is, and what it says it wants to be told: one `Interest`, read once for each run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, get_args

from nntrain.errors import ConfigError
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.calls import call_problem
from nntrain.values.progress import Phase, Place
from nntrain.values.state import TrainState

PLACES: Final[frozenset[Place]] = frozenset(get_args(Place))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a sink wants to be told. A sink without one is told everything, one transition at a time.

    A batch is unwatched where no step began with it, and there is nothing to tell beside it: most batches are. What is
    said of them here spares making a state for each.

    Args:
        places: the places in the machine; the sink is told of the transitions that begin there, and costs nothing
            elsewhere.
        every_batch: which unwatched batches the sink is told of: all (True), none (False), or each Nth of a phase, as
            with 50 the 50th, the 100th ...
        wants: asked before each unwatched batch, with the phase and the number of optimizer steps after it, whether the
            sink is told of it too. It is not asked about batches whose gradients wait for those of more, as with
            `accumulate`. Asked often: be quick.
        batches: told of the unwatched batches in place of the sink itself, in groups of up to 64 or half a second and
            without a state for each, in the order in which they ran. What came before was told before.
        strict: whether a failure of the sink ends the training. Else it is reported once, and counted in the outcome.
        tells: whether the sink has events of its own to tell (`transition.run.tell`). It is told first, and the others
            see its events with the same transition.
        monitors: the statistics that it reads, "loss" or metrics by name: a learner without one of them is refused at
            once.
        last_words: whether the sink is told when the process is asked to end (SIGTERM), where nobody else listens to
            that, as it is of Ctrl-C: the step is finished, then `Terminated` is raised.
        check: called with the state that a step (`fit_step`, `advance` ...) is to begin with, before it does anything;
            what it raises ends the step, whether or not the sink is strict.

    Raises `ConfigError` for places that there are not, or an `every_batch` that is no number of batches.
    """

    places: Collection[Place] = PLACES
    every_batch: bool | int = True
    wants: Callable[[Phase, int], bool] | None = None
    batches: Callable[[RunInfo, Sequence[BatchRan]], object] | None = None
    strict: bool = False
    tells: bool = False
    last_words: bool = False
    monitors: Collection[str] = ()
    check: Callable[[TrainState], object] | None = None

    def __post_init__(self) -> None:
        every, places = self.every_batch, self.places
        if not isinstance(every, int) or every < 0:
            raise ConfigError(
                f"every_batch is {every!r}; expected True, False, or a whole number: 50 for each 50th batch of a phase."
            )
        if isinstance(places, str) or not isinstance(places, Collection) or not PLACES.issuperset(places):
            raise ConfigError(f"places is {places!r}; expected a set of some of {', '.join(get_args(Place))}.")


class Sink(Protocol):
    """Whatever can be called with a `Transition`; what it returns is not looked at.

    A sink that wants less, or more, than each transition has an attribute `interest`, an `Interest`. A sink that fails
    does not end a training: it is reported once, counted, and shown in the outcome.
    """

    def __call__(self, transition: Transition, /) -> object:
        """Take note of a transition."""
        ...


EVERYTHING: Final = Interest()
_FORMER: Final = ("places", "every_batch", "wants", "batches", "strict", "tells", "last_words")


def check_sink(sink: object) -> None:
    """Raise `ConfigError` for what is no sink, or cannot be called with one transition."""
    interest_of(sink)
    problem = call_problem(sink, "transition")
    if problem is not None:
        raise ConfigError(f"The sink {sink_name(sink)} cannot be called with (transition): {problem}.")


def interest_of(sink: object) -> Interest:
    """Return what a sink wants. Raises `ConfigError` for what is no sink, or says what it wants in another way."""
    if isinstance(sink, type) or not callable(sink):
        raise ConfigError(
            f"sinks has {sink!r:.80}; expected something that can be called with a Transition: a function, or an "
            f"instance of a class of sinks. Subscribers go into subs=[...]."
        )
    interest = getattr(sink, "interest", None)
    if isinstance(interest, Interest):
        return interest
    name = sink_name(sink)
    if interest is not None:
        raise ConfigError(f"The sink {name} has interest {interest!r}; expected one like Interest(strict=True).")
    former = [one for one in _FORMER if hasattr(sink, one)]
    if former:
        raise ConfigError(
            f"The sink {name} has {', '.join(former)}. What a sink wants stands in one record: "
            f"interest = Interest({', '.join(f'{one}=...' for one in former)}). If it means something else by "
            f"{former[0]}, give it interest = Interest()."
        )
    return EVERYTHING


def sink_name(sink: object) -> str:
    """Return the name under which a sink's failures are counted."""
    name = getattr(sink, "__name__", None)
    return name if isinstance(name, str) else type(sink).__name__
