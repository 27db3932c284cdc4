"""Where data lies: folders, caches, archives, images."""

__all__ = []
