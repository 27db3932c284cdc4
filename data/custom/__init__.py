"""User-defined data: tensors, data sets of dicts, data frames, and files that a TOML description names."""

from multipyro.data.custom.files import is_data_file, load_examples, load_file
from multipyro.data.custom.frames import from_table
from multipyro.data.custom.kinds import infer_modality
from multipyro.data.custom.single_cell import from_anndata
from multipyro.data.custom.tensors import from_dataset, from_tensors
from multipyro.data.custom.toml import load_toml

__all__ = [
    "from_anndata",
    "from_dataset",
    "from_table",
    "from_tensors",
    "infer_modality",
    "is_data_file",
    "load_examples",
    "load_file",
    "load_toml",
]
