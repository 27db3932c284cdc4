"""Data sets of several modalities as dicts of tensors, and batches of them."""

from multipyro.data._files import write_atomically
from multipyro.data.celeba import celeba
from multipyro.data.described import described
from multipyro.data.digits import DIGIT_WORDS, digits
from multipyro.data.mnist import mnist
from multipyro.data.mnist_fashion import mnist_fashion
from multipyro.data.mnist_svhn import mnist_svhn, mnist_svhn_text
from multipyro.data.modality import Modality
from multipyro.data.multimodal import Batch, Batches, MultimodalData
from multipyro.data.own import from_dataset, from_tensors, infer_modality
from multipyro.data.polymnist import polymnist
from multipyro.data.registry import DATASETS, DatasetInfo, load_dataset
from multipyro.data.shared import SharedRows
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
    "SharedRows",
    "Splits",
    "celeba",
    "described",
    "digits",
    "from_dataset",
    "from_tensors",
    "infer_modality",
    "load_dataset",
    "mnist",
    "mnist_fashion",
    "mnist_svhn",
    "mnist_svhn_text",
    "polymnist",
    "thinned",
    "write_atomically",
]
