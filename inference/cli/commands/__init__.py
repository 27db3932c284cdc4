"""One module per command, each with a function `run` of the parsed arguments."""

__all__ = []
