"""User-defined guides, methods and other objects, named as FILE.py:NAME on the command line."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from multipyro.guides import Guide
from multipyro.inference.recipes import MethodInfo, register

__all__ = ["guide_class", "load_object", "method_name"]


def guide_class(place: str | None) -> type[Guide] | None:
    """The guide class at `FILE.py:CLASS`; None without a place.

    Raises:
        ValueError: If the file has no such subclass of `Guide`.
        FileNotFoundError: If the file does not exist.
    """
    if place is None:
        return None
    loaded = load_object(place, "--guide must be FILE.py:CLASS")
    if not isinstance(loaded, type) or not issubclass(loaded, Guide):
        raise ValueError(f"{place} is not a subclass of multipyro.guides.Guide")
    return loaded


def method_name(place: str) -> str:
    """The name of a method: one of the library, or the one at `FILE.py:NAME`, which is registered.

    Raises:
        ValueError: If the file has no such `MethodInfo`, or it has the name of a method of the library.
        FileNotFoundError: If the file does not exist.
    """
    if ":" not in place:
        return place
    loaded = load_object(place, "a method must be a name or FILE.py:NAME")
    if not isinstance(loaded, MethodInfo):
        raise ValueError(f"{place} is not a multipyro.inference.MethodInfo")
    return register(loaded).name


def load_object(place: str, expected: str = "a user-defined object must be FILE.py:NAME") -> Any:
    """The object at `FILE.py:NAME`.

    Args:
        place: The file and the name in it.
        expected: The beginning of the message if `place` has another form.

    Raises:
        ValueError: If `place` has another form, the file has no such name, or it exits when imported.
        FileNotFoundError: If the file does not exist.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"{expected}, got {place!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{place} names {path}, which is not a file")
    module = _imported(path.resolve())
    if not hasattr(module, name):
        raise ValueError(f"{path} does not define {name}")
    return getattr(module, name)


def _imported(path: Path) -> ModuleType:
    """The module of a file, imported as Python would import it from its own folder."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    # a dataclass looks up its module while the file runs; another module of that name is restored afterwards
    before, sys.modules[path.stem] = sys.modules.get(path.stem), module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if isinstance(error, SystemExit):
            raise ValueError(f"{path} exits when it is imported (code {error.code})") from error
        raise
    finally:
        sys.path.remove(str(path.parent))
        if before is not None:
            sys.modules[path.stem] = before
    return module
