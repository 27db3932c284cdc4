"""User-defined data: tensors, data sets of dicts, tables, arrays and images described by a TOML file."""

from multipyro.data.custom.tensors import from_dataset, from_tensors, infer_modality
from multipyro.data.custom.toml import load_toml

__all__ = ["from_dataset", "from_tensors", "infer_modality", "load_toml"]
