"""Data sets of several modalities as dicts of tensors, and batches of them."""

from multipyro.data.custom.tensors import from_dataset, from_tensors, infer_modality
from multipyro.data.custom.toml import described
from multipyro.data.modality import Modality
from multipyro.data.multimodal import Batch, Batches, MultimodalData
from multipyro.data.registry import DATASETS, DatasetInfo, load_dataset
from multipyro.data.scenes.two_objects import one_object, scene_arrays, two_objects
from multipyro.data.sets.captions import words_of
from multipyro.data.sets.celeba import celeba
from multipyro.data.sets.cub import cub
from multipyro.data.sets.digits import DIGIT_WORDS, digits
from multipyro.data.sets.features import nearest_rows, resnet_features
from multipyro.data.sets.mnist import mnist
from multipyro.data.sets.mnist_fashion import mnist_fashion
from multipyro.data.sets.mnist_svhn import mnist_svhn, mnist_svhn_text
from multipyro.data.sets.polymnist import polymnist
from multipyro.data.shared import SharedRows
from multipyro.data.splits import Splits
from multipyro.data.storage.files import write_atomically
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
