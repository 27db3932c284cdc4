"""Rendered scenes of one and two objects."""

__all__: list[str] = []
