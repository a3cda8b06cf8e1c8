"""Batches are the loader's, and may be passed again: a model that writes to what it is given gets copies."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from nntrain.live.forward_writes import LOOKED_AT, copy_all
from nntrain.values.trees import tree_map

Batch = TypeVar("Batch")


class Inputs:
    """Looks whether the model writes to its first batches; puts back what it wrote, and gives copies from then on."""

    def __init__(self) -> None:
        self._passes = {True: 0, False: 0}
        self._copies = False
        self.acts: dict[bool, bool] = {True: True, False: True}
        """Whether a batch in training, or in eval, is to be looked at still, or copied."""
        self._given: list[Tensor] = []
        self._old: list[Tensor] = []
        self._versions: list[int] = []

    def given(self, batch: Batch, *, train: bool) -> Batch:
        """Return what the model is given for a batch: the batch, or its copy."""
        if self._copies:
            copied: Batch = tree_map(batch, torch.clone)
            return copied
        number = self._passes[train]
        self._passes[train] = number + 1
        self.acts[train] = number <= max(LOOKED_AT)
        if number in LOOKED_AT:
            tree_map(batch, self._keep)
        return batch

    def _keep(self, tensor: Tensor) -> Tensor:
        self._given.append(tensor)
        self._old.append(tensor.clone())
        self._versions.append(tensor._version)
        return tensor

    def taken_back(self) -> None:
        """Put back what the model wrote to the batch; from then on it is given copies."""
        if self._given:
            given, old, versions = self._given, self._old, self._versions
            self._given, self._old, self._versions = [], [], []
            if versions != [tensor._version for tensor in given]:
                self._copies, self.acts = True, {True: True, False: True}
                with torch.no_grad():
                    copy_all([tensor.detach() for tensor in given], old)
