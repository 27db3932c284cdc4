"""Evaluation: prediction, likelihoods, metrics and figures."""

__all__: list[str] = []
