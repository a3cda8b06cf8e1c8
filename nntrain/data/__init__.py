"""Data: loaders whose order is a value, images decoded once or streamed, and two data sets to begin with."""

from nntrain.data.dataloaders import DataLoaders, ImageLoaders
from nntrain.data.images.digits import load_digits
from nntrain.data.images.fashion_mnist import load_fashion_mnist
from nntrain.data.images.folder import load_image_folder
from nntrain.data.images.image_loader import ImageLoader
from nntrain.data.images.reference import hf_ds_collate_fn
from nntrain.data.images.resident import ResidentLoader
from nntrain.data.images.saved import load_saved
from nntrain.data.images.streamed import HFLoader
from nntrain.data.per_rank import per_rank
from nntrain.data.per_sample import RandomCrop, RandomErasing, RandomHorizontalFlip
from nntrain.data.segments import segments
from nntrain.data.transformed import transformed

__all__ = [
    "DataLoaders",
    "HFLoader",
    "ImageLoader",
    "ImageLoaders",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "ResidentLoader",
    "hf_ds_collate_fn",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_saved",
    "per_rank",
    "segments",
    "transformed",
]
