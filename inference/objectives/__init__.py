"""Objectives: what training maximizes."""

__all__: list[str] = []
