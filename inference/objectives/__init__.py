"""Objectives: what training maximizes."""

__all__ = []
