"""Guides and methods of the user's own, named as FILE.py:NAME on the command line."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from multipyro.guides import Guide
from multipyro.inference.recipes import MethodInfo, register

__all__ = ["guide_class", "method_name"]


def guide_class(place: str) -> type[Guide]:
    """The guide class that the user names as `FILE.py:CLASS`.

    Raises:
        ValueError: If this is no such name, or the file has no such class.
        FileNotFoundError: If there is no such file.
    """
    found = _named(place, "--guide must be FILE.py:CLASS")
    if not isinstance(found, type) or not issubclass(found, Guide):
        raise ValueError(f"{place} is no subclass of multipyro.guides.Guide")
    return found


def method_name(place: str) -> str:
    """The name of a method: of the library, or one that the user names as `FILE.py:NAME`, which is registered.

    Raises:
        ValueError: If the file has no such `MethodInfo`, or it has the name of a method of the library.
        FileNotFoundError: If there is no such file.
    """
    if ":" not in place:
        return place
    found = _named(place, "a method must be a name or FILE.py:NAME")
    if not isinstance(found, MethodInfo):
        raise ValueError(f"{place} is no multipyro.inference.MethodInfo")
    return register(found).name


def _named(place: str, expected: str) -> Any:
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"{expected}, got {place!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{place} names {path}, which is no file")
    module = _imported(path.resolve())
    if not hasattr(module, name):
        raise ValueError(f"{path} has nothing called {name}")
    return getattr(module, name)


def _imported(path: Path) -> ModuleType:
    """The module of a file, imported as Python would import it from its own folder."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    # a dataclass looks its module up while the file runs; another module of that name, of ours or installed, goes on
    before, sys.modules[path.stem] = sys.modules.get(path.stem), module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    finally:
        sys.path.remove(str(path.parent))
        if before is not None:
            sys.modules[path.stem] = before
    return module
