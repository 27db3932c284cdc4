"""Data sets of several modalities as dicts of tensors, and batches of them."""

from multipyro.data._files import write_atomically
from multipyro.data.celeba import celeba
from multipyro.data.digits import DIGIT_WORDS, digits
from multipyro.data.mnist import mnist
from multipyro.data.modality import Modality
from multipyro.data.multimodal import Batch, Batches, MultimodalData
from multipyro.data.polymnist import polymnist
from multipyro.data.registry import DATASETS, DatasetInfo, load_dataset
from multipyro.data.splits import Splits
from multipyro.data.thinning import thinned

__all__ = [
    "DATASETS",
    "DIGIT_WORDS",
    "Batch",
    "Batches",
    "DatasetInfo",
    "Modality",
    "MultimodalData",
    "Splits",
    "celeba",
    "digits",
    "load_dataset",
    "mnist",
    "polymnist",
    "thinned",
    "write_atomically",
]
