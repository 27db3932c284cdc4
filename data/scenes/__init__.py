"""Rendered scenes of one and two objects."""

__all__ = []
