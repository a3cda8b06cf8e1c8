"""A process that has imported nntrain, and forks: real processes for tests, without seconds of importing for each."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[2]
_LONGEST_S: Final = 120


@dataclass(frozen=True)
class Child:
    """A process: a function that runs, and where its output goes."""

    pid: int
    stdout: Path
    stderr: Path
    warm: Warm

    def wait(self) -> int:
        """Give its exit code once it ends: minus the signal's number where one killed it."""
        return int(self.warm.asked({"wait": self.pid}))

    def kill(self) -> int:
        """Kill it, and give its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()


class Warm:
    """The warm process, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.log.warm"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # a process that has used a device cannot be forked
        )

    def asked(self, request: dict[str, Any]) -> Any:
        """Give its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, function: Callable[..., None], folder: Path, *arguments: str | int) -> Child:
        """Run a function of a module in a process of its own; its output goes to `stdout` and `stderr` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        call = {"module": function.__module__, "name": function.__qualname__, "arguments": arguments}
        return Child(self.asked({**call, "folder": str(folder)}), folder / "stdout", folder / "stderr", self)

    def end(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


def _run(request: dict[str, Any]) -> int:
    """Be the child."""
    signal.alarm(_LONGEST_S)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        path = "/dev/null" if number == 0 else f"{request['folder']}/{name}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, number)
        os.close(file)
    try:
        getattr(importlib.import_module(request["module"]), request["name"])(*request["arguments"])
    except BaseException:  # noqa: BLE001 - the parent's loop is not to be run twice
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _serve() -> None:
    import gc

    import torch

    from tests.log.trained import learner_of

    torch.set_num_threads(1)
    learner_of().fit(1, print_stats=False)  # the first training imports the half of torch
    gc.freeze()  # what the children have of it is not theirs to collect
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            importlib.import_module(request["module"])
            answer = os.fork()
            if answer == 0:
                os._exit(_run(request))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
