"""The algebra of experts: products and mixtures of distributions."""

__all__ = []
