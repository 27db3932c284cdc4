"""User-defined data: tensors, tables, TOML descriptions."""

__all__ = []
