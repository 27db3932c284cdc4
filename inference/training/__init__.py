"""Training: settings, loop, checkpoints and run folders."""

__all__ = []
