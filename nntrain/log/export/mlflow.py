"""MLflow runs in a local database, without a server."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nntrain.errors import ConfigError, needed
from nntrain.log.events import RunStarted
from nntrain.log.export.curves import Curves
from nntrain.log.export.exporter import Exporter, RunExporter
from nntrain.log.export.names import Names, name_of_run
from nntrain.log.export.text import flat, flat_text, safe, safe_sentence
from nntrain.log.extras import variable
from nntrain.log.line import Line
from nntrain.log.replay import Ending, ending

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

_STATUS: Final[Mapping[Ending, str]] = {
    "completed": "FINISHED",
    "cancelled": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "unknown": "KILLED",
}
_METRICS_AT_ONCE: Final = 1000
_PARAMS_AT_ONCE: Final = 100
_LONGEST_PARAM: Final = 6000
_LONGEST_TAG: Final = 5000
_SECONDS: Final = 5.0
"""After so many seconds metrics are written, even if there are few."""


class MLflow(RunExporter):
    """Writes each run as an MLflow run, into `mlflow.db` (SQLite) in a folder; nothing goes over the network.

    The configuration becomes parameters, flattened with dots; the points of `Curves` become metrics, with their step
    and time, written many at once; `nntrain.run_id`, `nntrain.rank`, `nntrain.outcome`, `nntrain.error` and the
    versions become tags. The status is FINISHED, FAILED, or KILLED after Ctrl-C and if the log does not say how the run
    ended. A run that exists already, known by its tag `nntrain.run`, is continued: nothing is written twice.

    MLflow's limits: names have letters, digits, `_ - . /` and spaces, anything else becomes `_`, and they are cut at
    200 characters; values of parameters are cut at 6000, of tags at 5000; a parameter keeps its first value; infinite
    metrics become the largest float.

    Needs the extra `mlflow`. Raises `ConfigError` for a folder with a `?`, which a database address cannot contain.
    """

    def __init__(self, folder: str | os.PathLike[str], *, experiment: str = "nntrain") -> None:
        where = Path(folder).absolute()
        if "?" in str(where):
            raise ConfigError(f"MLflow cannot write into {str(where)!r}: its database's address may have no '?' in it.")
        # No usage reports. The import decides: a program that imported MLflow before has decided itself.
        with variable("MLFLOW_DISABLE_TELEMETRY", "true"):
            for package in ("mlflow", "sqlalchemy", "alembic"):
                needed(package, extra="mlflow", purpose="Writing MLflow runs")
        where.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        super().__init__("MLflow runs", "MLflow", MlflowException)
        with self._as_log_error(), _quiet():
            self._client = MlflowClient(tracking_uri=f"sqlite:///{where / 'mlflow.db'}")
            found = self._client.get_experiment_by_name(experiment)
            self._experiment: str = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(experiment, artifact_location=(where / "artifacts").as_uri())
            )

    def _run(self, first: Line) -> Exporter:
        return _Run(self._client, self._experiment, first)


class _Run(Exporter):
    """An MLflow run."""

    def __init__(self, client: MlflowClient, experiment: str, first: Line) -> None:
        self._client = client
        name = name_of_run(first)
        there = client.search_runs([experiment], f"tags.`nntrain.run` = '{name}'", max_results=1)
        if there:
            self._id: str = there[0].info.run_id
            self._params = set(there[0].data.params)
        else:
            tags = {
                "nntrain.run": name,
                "nntrain.run_id": safe(first.run_id, _LONGEST_TAG),
                "nntrain.rank": str(first.rank),
            }
            made = client.create_run(experiment, start_time=_milliseconds(first), tags=tags, run_name=name)
            self._id = made.info.run_id
            self._params = set()
        self._curves = Curves()
        self._param_names = Names()
        self._metrics: list[Metric] = []
        self._next = time.monotonic() + _SECONDS
        self._ending: Ending = "unknown"
        self._error = ""
        self._last = first

    def write(self, line: Line, /) -> None:
        """Write a line; its metrics are written later, with those of others."""
        from mlflow.entities import Metric

        self._last = line
        self._ending = ending(self._ending, line)
        for point in self._curves.points(line):
            self._metrics.append(Metric(point.curve, point.value, _milliseconds(line), point.x))
        if isinstance(line.event, RunStarted):
            self._configure(line.event.config)
        if line.level == "error":
            self._error = safe_sentence(line)
        if len(self._metrics) >= _METRICS_AT_ONCE or time.monotonic() > self._next:
            self._write_metrics()

    def _configure(self, config: Mapping[str, object]) -> None:
        from mlflow.entities import Param, RunTag

        params = []
        for path, value in flat(config):
            name = self._param_names.of(path, path)
            if name not in self._params:
                params.append(Param(name, safe(flat_text(value), _LONGEST_PARAM)))
                self._params.add(name)
        for begin in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[begin : begin + _PARAMS_AT_ONCE])
        versions = config.get("versions")
        names = Names()
        tags = [
            RunTag(names.of(path, f"nntrain.version.{path}"), safe(flat_text(value), _LONGEST_TAG))
            for path, value in (flat(versions) if isinstance(versions, Mapping) else ())
        ]
        self._tag(tags)

    def _tag(self, tags: list[RunTag]) -> None:
        for begin in range(0, len(tags), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, tags=tags[begin : begin + _PARAMS_AT_ONCE])

    def _write_metrics(self) -> None:
        self._next = time.monotonic() + _SECONDS
        while self._metrics:
            self._client.log_batch(self._id, metrics=self._metrics[:_METRICS_AT_ONCE])
            del self._metrics[:_METRICS_AT_ONCE]

    def close(self) -> None:
        """Write the remaining metrics, and how the run ended."""
        from mlflow.entities import RunTag

        self._write_metrics()
        tags = [RunTag("nntrain.outcome", self._ending)]
        if self._error:
            tags.append(RunTag("nntrain.error", self._error))
        self._tag(tags)
        self._client.set_terminated(self._id, _STATUS[self._ending], end_time=_milliseconds(self._last))


def _milliseconds(line: Line) -> int:
    return max(0, int(line.timestamp.timestamp() * 1000))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what MLflow prints on stderr while it creates its tables, and its deprecation warnings."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
