"""The page on launchers: torchrun parses its commands, bash its scripts; Kubernetes' schema has its manifests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import parse_args

from tests.docs.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "launch.md"
SCRIPTS = blocks(PAGE, "bash")
MANIFESTS: list[dict[str, Any]] = [one for block in blocks(PAGE, "yaml") for one in yaml.safe_load_all(block)]


def torchruns(text: str) -> list[list[str]]:
    """Return the arguments of each torchrun in a script."""
    joined = text.replace("\\\n", " ").replace("'", "\n")
    return [shlex.split(one) for one in re.findall(r"torchrun (.+)", joined)]


def commands() -> list[list[str]]:
    found = [words for block in SCRIPTS for words in torchruns(block)]
    return found + [container["command"][1:] for container in containers()]


def containers() -> list[dict[str, Any]]:
    return [
        container
        for one in MANIFESTS
        if one["kind"] == "Job"
        for container in one["spec"]["template"]["spec"]["containers"]
    ]


def test_torchrun_takes_each_command() -> None:
    found = commands()
    assert len(found) == 4
    for words in found:
        given = parse_args(words)  # type: ignore[no-untyped-call] # torch has no types for it
        assert given.training_script == "train.py"
        assert given.max_restarts > 0
        assert given.standalone or (given.rdzv_backend == "c10d" and given.rdzv_endpoint.endswith(":29500"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_each_script(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_batch_script_asks_for_a_signal_in_time_and_for_the_queue() -> None:
    (script,) = [one for one in SCRIPTS if "#SBATCH" in one]
    first, *lines = script.splitlines()
    assert first == "#!/bin/bash"
    said_to_slurm = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH ")]
    asked = {name: value for name, _, value in said_to_slurm}
    assert asked["signal"] == "TERM@120"  # to the steps, and not to the shell (B:)
    assert asked["requeue"] == ""
    assert asked["ntasks-per-node"] == "1"
    hours, minutes, seconds = map(int, asked["time"].split(":"))
    said = re.search(r"SECONDS\" -ge \$\(\((\d+) \* 3600 - (\d+)\)\)", script)
    assert said is not None
    assert (hours, minutes, seconds) == (int(said[1]), 0, 0)
    assert int(said[2]) > 120


def test_the_manifests_fit_together() -> None:
    service, job = MANIFESTS
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    (container,) = containers()
    assert f"--nnodes={job['spec']['completions']}" in container["command"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:29500" in container["command"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > 30  # a checkpoint's grace, and torchrun's


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: str(one["kind"]))
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="uv run --group launchers has it")
    validator.validate(manifest, validator.latest_version(), strict=True)
    with pytest.raises(validator.ValidationError):
        validator.validate({**manifest, "spec": {"nothing": 1}}, validator.latest_version(), strict=True)


def test_ray_trains_with_two_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="uv run --group launchers has it")
    (block,) = (one for one in blocks(PAGE, "python") if "from ray" in one)
    (tmp_path / "train_by_ray.py").write_text(f"import ray\n\nray.init(num_cpus=3, include_dashboard=False)\n{block}")
    # Each process of Ray imports jsonschema, which with the readers' extra compiles a grammar for 4 seconds. Ray gives
    # up after 15, so there is no such grammar.
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "rfc3987_syntax.py").write_text("raise ImportError\n")
    # Under `uv run` Ray would start each worker by `uv run` again, in a copy of the folder: seconds for each.
    environment = {**os.environ, "PYTHONPATH": str(hiding), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    done = subprocess.run(
        [sys.executable, "train_by_ray.py"],
        cwd=tmp_path,
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
