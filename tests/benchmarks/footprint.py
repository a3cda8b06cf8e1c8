"""What one process comes to hold, run in a fresh interpreter by `tests.benchmarks.memory`; prints JSON.

`peak LOOP MODEL OPTIMIZER BATCHES` runs one epoch of one loop. `steps LOOP COUNT` and `fits LOOP COUNT` look at the
process after a warm-up and at the end.
"""

from __future__ import annotations

import copy
import gc
import json
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from nntrain import DataLoaders, Learner, accuracy, fit_step
from tests.benchmarks.own import epoch_by_hand
from tests.benchmarks.setting import LR, Batch, Batches, batches_of, mlp

ModelSource = nn.Module | Callable[[], nn.Module]
OPTIMIZERS: Final[dict[str, type[torch.optim.SGD] | type[torch.optim.Adam]]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
}
WIDTHS: Final = {"mlp": (784, 50, 10), "wide": (784, 4096, 5120, 10)}
"""The MLP of the other benchmarks, and one whose weights are 97 MB."""
STATUS: Final = Path("/proc/self/status")
WARM_UP: Final = 0.1


def megabytes(which: Literal["VmHWM", "VmRSS"]) -> float:
    """Give the resident memory in MiB: at its peak (VmHWM) or now (VmRSS).

    The kernel's own count of this process; `getrusage` may begin with the peak of the process that started it, and
    stands in only where there is no /proc. It knows no "now".
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(which):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def live_tensors() -> int:
    """Count the tensors that Python's collector knows of."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def learner_of(model: ModelSource, batches: Batches, optimizer: str) -> Learner[Batch]:
    """Make a learner that evaluates on one batch."""
    data = DataLoaders(batches, batches[:1])
    return Learner(model, data, nn.functional.cross_entropy, accuracy, OPTIMIZERS[optimizer], LR)


def peak(loop: str, model: str, optimizer: str, batches: str) -> dict[str, float]:
    """Give the memory before the model is made, and the peak of the process after one epoch."""
    data = batches_of(int(batches), 64)
    make = partial(mlp, *WIDTHS[model])
    before = megabytes("VmRSS")
    if loop == "hand-written":
        made = make()
        epoch_by_hand(made, OPTIMIZERS[optimizer](made.parameters(), lr=LR), data, data[:1])
    elif loop == "nntrain":
        learner_of(make(), data, optimizer).fit(1, print_stats=False)
    else:
        learner_of(make, data, optimizer).fit(1, print_stats=False)
    return {"before": before, "peak": megabytes("VmHWM")}


def _watched(first: Callable[[], object], rest: Callable[[], object]) -> dict[str, float]:
    first()
    tensors = live_tensors()
    found = {"before": megabytes("VmRSS"), "tensors_before": float(tensors)}
    rest()
    tensors = live_tensors()
    return {**found, "after": megabytes("VmRSS"), "tensors_after": float(tensors)}


def steps(loop: str, count: str) -> dict[str, float]:
    """Give the memory after a tenth of the steps more, and after all: one training, in ten epochs."""
    data = batches_of(max(1, round(int(count) * WARM_UP)), 64, distinct=100)
    model = mlp(*WIDTHS["mlp"])
    if loop == "hand-written":
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        epoch = partial(epoch_by_hand, model, optimizer, data, data[:1])
        return _watched(epoch, lambda: [epoch() for _ in range(10)])
    learner = learner_of(model, data, "SGD")
    kept = [learner.fit(1, print_stats=False).state]
    return _watched(lambda: None, lambda: kept.append(fit_step(learner, kept.pop(), epochs=10).state))


def fits(loop: str, count: str) -> dict[str, float]:
    """Give the memory after a tenth of the fits more, and after all, each with a learner, or model, of its own."""
    data = batches_of(5, 64)
    model = mlp(*WIDTHS["mlp"])
    one_for_all = learner_of(model, data, "SGD")

    def fit() -> None:
        if loop == "hand-written":
            made = copy.deepcopy(model)
            epoch_by_hand(made, torch.optim.SGD(made.parameters(), lr=LR), data, data[:1])
        elif loop == "nntrain":
            learner_of(model, data, "SGD").fit(1, print_stats=False)
        else:
            one_for_all.fit(1, print_stats=False)

    def often(times: int) -> None:
        for _ in range(times):
            fit()

    return _watched(partial(often, max(1, round(int(count) * WARM_UP))), partial(often, int(count)))


MEASURES: Final[dict[str, Callable[..., dict[str, float]]]] = {"peak": peak, "steps": steps, "fits": fits}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
