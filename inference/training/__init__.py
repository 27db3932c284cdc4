"""Training: settings, loop, checkpoints and run folders."""

__all__: list[str] = []
