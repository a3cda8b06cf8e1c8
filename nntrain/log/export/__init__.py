"""The log in other tools' formats, written during the training or afterwards."""

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
