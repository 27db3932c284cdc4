"""User-defined data: tensors, data sets of dicts, data frames, and files that a TOML description names."""

from multipyro.data.custom.frames import from_table, load_examples
from multipyro.data.custom.kinds import infer_modality
from multipyro.data.custom.single_cell import from_anndata
from multipyro.data.custom.tensors import from_dataset, from_tensors
from multipyro.data.custom.toml import load_toml

__all__ = ["from_anndata", "from_dataset", "from_table", "from_tensors", "infer_modality", "load_examples", "load_toml"]
