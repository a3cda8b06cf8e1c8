"""The log in other tools' formats: projections of its lines, live or after the fact."""

from nntrain.log.export.exporter import Exporter, export
from nntrain.log.export.mlflow import MLflow
from nntrain.log.export.opentelemetry import OpenTelemetry
from nntrain.log.export.tables import Csv, Parquet
from nntrain.log.export.tensorboard import TensorBoard
from nntrain.log.export.wandb import WeightsAndBiases

__all__ = [
    "Csv",
    "Exporter",
    "MLflow",
    "OpenTelemetry",
    "Parquet",
    "TensorBoard",
    "WeightsAndBiases",
    "export",
]
