"""Files and folders: where data sets are searched, atomic writes, caches, archives, images."""

from multipyro.data.storage.cache import cached
from multipyro.data.storage.files import write_atomically
from multipyro.data.storage.locations import download_root, find, roots

__all__ = ["cached", "download_root", "find", "roots", "write_atomically"]
