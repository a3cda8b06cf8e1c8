"""Data: loaders whose order is a value, the reference path for images, and two data sets to begin with."""

from nntrain.data.dataloaders import DataLoaders
from nntrain.data.digits import load_digits
from nntrain.data.fashion_mnist import load_fashion_mnist
from nntrain.data.hf import HFLoader, hf_ds_collate_fn
from nntrain.data.saved import load_saved

__all__ = [
    "DataLoaders",
    "HFLoader",
    "hf_ds_collate_fn",
    "load_digits",
    "load_fashion_mnist",
    "load_saved",
]
