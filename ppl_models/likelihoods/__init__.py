"""Likelihoods `p(x_m | z)`: modules that return distributions."""

__all__ = []
