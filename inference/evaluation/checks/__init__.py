"""Checks of a guide against the model whose posterior it approximates."""

__all__ = []
