"""What all tests share: the devices they run on, and how much Hypothesis tries."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from nntrain.live import recorded as capture
from tests.log.warm import Warm
from tests.tape import TapeRecorder

# One thread, here and in what tests start: tiny tensors gain nothing from more, and two test runs on one machine do not
# slow each other down.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile(
    "nntrain",
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("sweep", settings.get_profile("nntrain"), max_examples=500)
# pytest --hypothesis-profile=sweep tries ten times as much.
settings.load_profile("nntrain")


LONGEST = (
    "tests/laws/test_law_04_processes.py",
    "tests/laws/test_failures_at_any_line.py",
    "tests/docs/test_docs.py",
    "tests/faults/test_rank_kills.py",
    "tests/docs/test_examples_learn.py",
    "tests/typing/test_mistakes.py",
    "tests/typing/test_typing.py",
    "tests/cli/test_new.py",
    "tests/faults/test_kills.py",
    "tests/cli/test_fit.py",
    "tests/testing/test_check_others.py",
    "tests/testing/test_check_subscriber.py",
    "tests/update/test_lr_scale.py",
    "tests/live/test_compiled.py",
)


@cache
def has_sweep(path: Path) -> bool:
    """Return whether a module says that it has tests of the sweep."""
    text = path.read_text()
    return "sweep" in text or "one_in" in text


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For the sweep alone, leave the modules out that have nothing for it: to import them takes longer than some."""
    if config.getoption("markexpr") != "sweep" or collection_path.suffix != ".py" or has_sweep(collection_path):
        return None
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest: begun last, they would have one process wait for the other."""
    unsaid = {item.path for item in items if item.get_closest_marker("sweep") and not has_sweep(item.path)}
    if unsaid:
        said = ", ".join(map(str, unsaid))
        raise pytest.UsageError(f"{said}: name the mark `sweep` in the module itself, or `-m sweep` leaves it out.")
    ranks = {module: rank for rank, module in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Let the garbage collector, which many tests run, not look at the million objects of all imports each time.

    torch's iterators over worker processes are ended before: one that is collected within a cycle waits seconds for
    each worker, as the queue that would end it was closed before.
    """
    for one in gc.get_objects():
        if type(one).__name__ == "_MultiProcessingDataLoaderIter":
            one._shutdown_workers()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that nntrain runs on; CUDA is skipped, visibly, where there is none."""
    name = str(request.param)
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    if name == "cuda":
        # The laws speak of bits; cuDNN may choose kernels that add in an order of their own.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


@pytest.fixture
def handler() -> Iterator[Callable[..., Any]]:
    """Python's own handler of SIGINT, which a shell's background job starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported nntrain, to start others from."""
    made = Warm()
    yield made
    made.end()


@pytest.fixture(scope="module")
def tapes() -> Iterator[None]:
    """Let `Learner(capture=True)` record on the CPU too."""
    cuda = capture.recorder_for

    def recorder_for(device: torch.device) -> capture.Recorder | None:
        return cuda(device) or TapeRecorder()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "recorder_for", recorder_for)
        yield
