"""Data sets of several modalities as dicts of tensors, and batches of them."""

from multipyro.data.batches import Batch, as_batch
from multipyro.data.custom import (
    from_anndata,
    from_dataset,
    from_table,
    from_tensors,
    infer_modality,
    load_examples,
    load_toml,
)
from multipyro.data.incomplete import drop_modalities
from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import KINDS, LIKELIHOODS, Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.registry import DATASETS, DatasetInfo, load_dataset
from multipyro.data.splits import Splits

__all__ = [
    "DATASETS",
    "KINDS",
    "LIKELIHOODS",
    "Batch",
    "DatasetInfo",
    "IndexedTensor",
    "Modality",
    "MultimodalData",
    "Splits",
    "as_batch",
    "drop_modalities",
    "from_anndata",
    "from_dataset",
    "from_table",
    "from_tensors",
    "infer_modality",
    "load_dataset",
    "load_examples",
    "load_toml",
]
