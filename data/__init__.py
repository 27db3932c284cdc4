"""Data sets of several modalities as dicts of tensors, and batches of them."""

from multipyro.data._files import write_atomically
from multipyro.data.captions import words_of
from multipyro.data.celeba import celeba
from multipyro.data.cub import cub
from multipyro.data.described import described
from multipyro.data.digits import DIGIT_WORDS, digits
from multipyro.data.features import nearest_rows, resnet_features
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
from multipyro.data.two_objects import one_object, scene_arrays, two_objects

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
    "cub",
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
    "nearest_rows",
    "one_object",
    "polymnist",
    "resnet_features",
    "scene_arrays",
    "thinned",
    "two_objects",
    "words_of",
    "write_atomically",
]
