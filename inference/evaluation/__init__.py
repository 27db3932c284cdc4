"""Evaluation: prediction, likelihoods, metrics and figures."""

__all__ = []
