"""Arguments of a command from a YAML or TOML file."""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multipyro._optional import optional_imports

__all__ = ["read", "set_defaults"]


def read(file: Path) -> dict[str, Any]:
    """The content of the file.

    Args:
        file: A `.yaml`, `.yml` or `.toml` file. Its keys are the names of the arguments, with `_` or `-`: a single
            value, a list, or a mapping for arguments such as `weights` that take NAME=VALUE. `method` is the method,
            `options` and `data_options` are mappings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is not a mapping.
    """
    if file.suffix not in (".yaml", ".yml", ".toml"):
        raise ValueError(f"--config must be a .yaml or .toml file, got {file}")
    if not file.is_file():
        raise FileNotFoundError(f"--config names {file}, which is not a file")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml":
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{file}: {error}") from error
    else:
        with optional_imports("a YAML file"):
            import yaml
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{file} must be a mapping from names of arguments to values")
    return content


def set_defaults(command: argparse.ArgumentParser, content: Mapping[str, Any]) -> None:
    """Makes the content of a file the defaults of a command, checked as if it stood on the command line.

    Args:
        command: The parser of the command.
        content: The result of `read`.

    Raises:
        ValueError: If an argument is unknown.
        SystemExit: If a value is wrong, after one line on standard error.
    """
    tokens = [str(content["method"])] if "method" in content else []
    for key, value in content.items():
        if key != "method":
            tokens += _tokens(key.replace("_", "-"), value)
    given, unknown = command.parse_known_args(tokens)
    if unknown:
        raise ValueError(f"the configuration file has an unknown argument: {' '.join(unknown)}")
    untouched = command.parse_args([])
    changed = {name: value for name, value in vars(given).items() if value != getattr(untouched, name)}
    command.set_defaults(**{"default_options" if name == "options" else name: v for name, v in changed.items()})


def _tokens(key: str, value: Any) -> list[str]:
    """The command-line tokens of one entry."""
    if value is None:
        return []
    if key in ("options", "data-options"):
        pairs = value.items() if isinstance(value, dict) else [(key, value)]
        return [token for name, inner in pairs for token in (f"--{key[:-1]}", f"{name}={_text(inner)}")]
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    if isinstance(value, dict):
        return [f"--{key}", *(f"{name}={_text(inner)}" for name, inner in value.items())]
    if isinstance(value, list):
        return [f"--{key}", *map(_text, value)]
    return [f"--{key}={_text(value)}"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
