"""The published data sets, one module each."""

__all__ = []
