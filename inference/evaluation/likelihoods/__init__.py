"""Estimates of log-likelihoods, with standard errors and diagnostics."""

__all__ = []
