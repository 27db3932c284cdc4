"""Files and folders: where data sets are searched, atomic writes, caches, archives, images."""

from multipyro.data.storage.cache import cached, mapped
from multipyro.data.storage.files import printable, read_bounded, remove_leftovers, write_atomically
from multipyro.data.storage.locations import download_root, find, roots

__all__ = [
    "cached",
    "download_root",
    "find",
    "mapped",
    "printable",
    "read_bounded",
    "remove_leftovers",
    "roots",
    "write_atomically",
]
