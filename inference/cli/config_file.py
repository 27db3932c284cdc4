"""Arguments of a command from a YAML or TOML file."""

import tomllib
from pathlib import Path
from typing import Any

from multipyro._optional import optional_imports

__all__ = ["read_config"]


def read_config(file: Path, command: Any) -> dict[str, Any]:
    """The arguments in a file, checked as if they were on the command line.

    Args:
        file: A `.yaml`, `.yml` or `.toml` file. Its keys are the names of the arguments, with `_` or `-`; `method` is
            the method, `option` a mapping of its options.
        command: The command whose arguments they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is not a mapping, or an argument is unknown or wrong.
    """
    known = {option.name: option for options in (command.options, *command.groups.values()) for option in options}
    values: dict[str, Any] = {}
    for key, value in _content(file).items():
        name = key.replace("-", "_")
        if name == command.positional[0]:
            values[name] = str(value)
        elif name not in known:
            raise ValueError(f"{file} has an unknown argument {key}: choose from {', '.join(known)}")
        else:
            read = known[name].parse if isinstance(value, str) else known[name].convert
            try:
                values[name] = read(value)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
    return values


def _content(file: Path) -> dict[str, Any]:
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
