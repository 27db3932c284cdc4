"""Multimodal variational autoencoders as Pyro programs: models, guides, inference and data."""

__all__ = ["__version__"]

__version__ = "0.1.0"
