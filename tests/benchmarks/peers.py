"""Other libraries' loops, each as its documentation would have it used: the dependency group `peers`.

Each is set up for speed: on the CPU, in float32, without checkpoints, progress bars, log files or printed lines, on
batches in memory, the accuracy by the library's own facility where it has one. A peer is imported by name, and so seen
as `Any`: it is not installed where the types are checked.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from nntrain import accuracy
from tests.benchmarks.setting import LR, Batch, Batches, InMemory, Loop, Prepared, Reported, mean


def lightning(model: nn.Module, train: Batches, valid: Batches, **options: object) -> Prepared:
    """Prepare Lightning's Trainer, with more options of it. Its `barebones` is faster, but reports nothing."""
    lightning: Any = import_module("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):  # type: ignore[misc] # a peer is Any
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model)

        def scored(self, batch: Batch, phase: str) -> Tensor:
            inputs, target = batch
            preds = self.model(inputs)
            loss = nn.functional.cross_entropy(preds, target)
            figures = {f"{phase}_loss": loss, f"{phase}_accuracy": accuracy(preds.detach(), target)}
            self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(target))
            return loss

        def training_step(self, batch: Batch) -> Tensor:
            return self.scored(batch, "train")

        def validation_step(self, batch: Batch) -> None:
            self.scored(batch, "valid")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )

    def report() -> Reported:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        names = (f"{phase}_{figure}" for phase in ("train", "valid") for figure in ("loss", "accuracy"))
        return Reported(module.model.state_dict(), *(found[name] for name in names))

    return Prepared(partial(trainer.fit, module, InMemory(train), InMemory(valid)), report)


def ignite(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare two of Ignite's engines, with its metrics."""
    engine: Any = import_module("ignite.engine")
    metrics: Any = import_module("ignite.metrics")
    loss_fn, model = nn.functional.cross_entropy, copy.deepcopy(model)
    trainer = engine.create_supervised_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=LR),
        loss_fn,
        output_transform=lambda inputs, target, preds, loss: (preds, target, loss.item()),
    )
    metrics.Average(lambda output: output[2]).attach(trainer, "loss")
    metrics.Accuracy(lambda output: output[:2]).attach(trainer, "accuracy")
    evaluator = engine.create_supervised_evaluator(
        model, {"loss": metrics.Loss(loss_fn), "accuracy": metrics.Accuracy()}
    )
    trainer.add_event_handler(engine.Events.EPOCH_COMPLETED, lambda: evaluator.run(valid))

    def report() -> Reported:
        before, after = trainer.state.metrics, evaluator.state.metrics
        return Reported(model.state_dict(), before["loss"], before["accuracy"], after["loss"], after["accuracy"])

    return Prepared(partial(trainer.run, train, max_epochs=1), report)


def accelerate(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare a loop by hand with Accelerate in it. The batches stay a list: a prepared DataLoader is only slower."""
    accelerator = import_module("accelerate").Accelerator(cpu=True)
    model = copy.deepcopy(model)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=LR))
    figures: list[float] = []

    def fit() -> None:
        for phase, batches in (("train", train), ("valid", valid)):
            model.train(phase == "train")
            losses, accuracies = [], []
            with torch.set_grad_enabled(phase == "train"):
                for inputs, target in batches:
                    preds = model(inputs)
                    loss = nn.functional.cross_entropy(preds, target)
                    if phase == "train":
                        optimizer.zero_grad()
                        accelerator.backward(loss)
                        optimizer.step()
                    losses.append(loss.item())
                    accuracies.append(accuracy(preds.detach(), target).item())
            figures.extend((mean(losses), mean(accuracies)))

    return Prepared(fit, lambda: Reported(accelerator.unwrap_model(model).state_dict(), *figures))


def fastai(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare fastai's Learner. Its training loss is a smoothed one."""
    fastai: Any = import_module("fastai.learner")
    import_module("fastai.torch_core").default_device(False)
    learner = fastai.Learner(
        import_module("fastai.data.core").DataLoaders(train, valid),
        copy.deepcopy(model),
        loss_func=nn.functional.cross_entropy,
        opt_func=import_module("fastai.optimizer").SGD,
        lr=LR,
        metrics=accuracy,
    )
    learner.recorder.train_metrics = True

    def fit() -> None:
        with learner.no_logging():
            learner.fit(1)

    return Prepared(fit, lambda: Reported(learner.model.state_dict(), *learner.recorder.values[0]))


def skorch(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare skorch's classifier, with iterators that give the batches instead of collating rows."""
    skorch: Any = import_module("skorch")

    def batches_of(dataset: InMemory, **options: object) -> Batches:
        return dataset.batches

    scoring = import_module("skorch.callbacks").EpochScoring
    net = skorch.NeuralNetClassifier(
        copy.deepcopy(model),
        criterion=nn.CrossEntropyLoss,
        classes=list(range(10)),
        optimizer=torch.optim.SGD,
        lr=LR,
        max_epochs=1,
        train_split=import_module("skorch.helper").predefined_split(InMemory(valid)),
        iterator_train=batches_of,
        iterator_valid=batches_of,
        callbacks=[scoring("accuracy", name="train_acc", on_train=True, lower_is_better=False)],
        verbose=0,
    )

    def report() -> Reported:
        names = ("train_loss", "train_acc", "valid_loss", "valid_acc")
        return Reported(net.module_.state_dict(), *(net.history[-1][name] for name in names))

    return Prepared(partial(net.fit, InMemory(train), None), report)


def transformers(model: nn.Module, train: Batches, valid: Batches, **options: object) -> Prepared:
    """Prepare transformers' Trainer, with more options of it.

    It has metrics for evaluation only, and says the loss to four digits.
    """
    transformers: Any = import_module("transformers")

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model)

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.model(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Trainer(transformers.Trainer):  # type: ignore[misc] # a peer is Any
        def get_train_dataloader(self) -> list[dict[str, Tensor]]:
            return [{"inputs": inputs, "labels": target} for inputs, target in train]

        def get_eval_dataloader(self, eval_dataset: object = None) -> list[dict[str, Tensor]]:
            return [{"inputs": inputs, "labels": target} for inputs, target in valid]

    trainer = Trainer(
        Scored(),
        transformers.TrainingArguments(
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=len(train[0][1]),
            per_device_eval_batch_size=len(valid[0][1]),
            optim="sgd",
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            eval_strategy="epoch",
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=train,
        eval_dataset=valid,
        compute_metrics=lambda scored: {"accuracy": float((scored.predictions.argmax(-1) == scored.label_ids).mean())},
    )
    trainer.remove_callback(transformers.PrinterCallback)

    def report() -> Reported:
        said = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
        return Reported(trainer.model.model.state_dict(), said["loss"], None, said["eval_loss"], said["eval_accuracy"])

    return Prepared(trainer.train, report)


def keras(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare Keras on its torch backend, with the module as a layer."""
    os.environ["KERAS_BACKEND"] = "torch"  # read when keras is first imported
    keras: Any = import_module("keras")
    module = copy.deepcopy(model)
    with keras.device("cpu"):
        network = keras.Sequential([keras.layers.TorchModuleWrapper(module)])
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(LR), loss_fn, metrics=["accuracy"], jit_compile=False)
    loaders = [torch.utils.data.DataLoader(InMemory(batches), batch_size=None) for batches in (train, valid)]

    def report() -> Reported:
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        return Reported(module.state_dict(), *(network.history.history[name][0] for name in names))

    def fit() -> None:
        with keras.device("cpu"):
            network.fit(loaders[0], validation_data=loaders[1], epochs=1, verbose=0)

    return Prepared(fit, report)


def torchtnt(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
    """Prepare TorchTNT's AutoUnit. Its metrics are a package of their own, so the sums are kept by hand."""
    framework: Any = import_module("torchtnt.framework")
    auto_unit: Any = import_module("torchtnt.framework.auto_unit")

    class Unit(auto_unit.AutoUnit):  # type: ignore[misc] # a peer is Any
        def compute_loss(self, state: object, data: Batch) -> tuple[Tensor, Tensor]:
            inputs, target = data
            preds = self.module(inputs)
            return nn.functional.cross_entropy(preds, target), preds

        def configure_optimizers_and_lr_scheduler(self, module: nn.Module) -> tuple[torch.optim.Optimizer, None]:
            return torch.optim.SGD(module.parameters(), lr=LR), None

        def on_train_step_end(self, state: object, data: Batch, step: int, results: Any) -> None:
            add("train", data[1], results.loss, results.outputs)

        def on_eval_step_end(self, state: object, data: Batch, step: int, loss: Tensor, outputs: Tensor) -> None:
            add("valid", data[1], loss, outputs)

    found: dict[str, list[float]] = {name: [] for name in ("train_loss", "train_acc", "valid_loss", "valid_acc")}

    def add(phase: str, target: Tensor, loss: Tensor, preds: Tensor) -> None:
        found[f"{phase}_loss"].append(loss.item())
        found[f"{phase}_acc"].append(accuracy(preds.detach(), target).item())

    unit = Unit(module=copy.deepcopy(model), device=torch.device("cpu"))

    fit = partial(framework.fit, unit, train, valid, max_epochs=1)
    return Prepared(fit, lambda: Reported(unit.module.state_dict(), *map(mean, found.values())))


class Peer(NamedTuple):
    """A loop, the package that it is imported from, and the distribution that it is installed from."""

    loop: Loop
    package: str
    distribution: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


PEERS: Final[Mapping[str, Peer]] = {
    "lightning": Peer(lightning, "lightning", "lightning"),
    "ignite": Peer(ignite, "ignite", "pytorch-ignite"),
    "accelerate": Peer(accelerate, "accelerate", "accelerate"),
    "fastai": Peer(fastai, "fastai", "fastai"),
    "skorch": Peer(skorch, "skorch", "skorch"),
    "transformers": Peer(transformers, "transformers", "transformers"),
    "keras": Peer(keras, "keras", "keras"),
    "torchtnt": Peer(torchtnt, "torchtnt", "torchtnt"),
}
