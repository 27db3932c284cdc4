"""Output of the commands: names and texts from data are printed as they are, and never interpreted."""

import os
import sys
from typing import Any

from multipyro._optional import optional_imports

__all__ = ["complain", "printable", "say", "warn"]

# a table in a file or a pipe needs no line breaks for a narrow terminal
_WIDTH = 160


def printable(text: Any) -> str:
    r"""The text with every control character escaped, so that none reaches the terminal.

    Example:
        >>> printable("a" + chr(7) + "b")
        'a\\x07b'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))


def say(content: Any) -> None:
    """Prints a text or a table of rich on standard output."""
    with optional_imports("the command line"):
        from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    console.print(printable(content) if isinstance(content, str) else content, soft_wrap=isinstance(content, str))


def warn(message: str) -> None:
    """Prints one line on standard error."""
    print("multipyro:", printable(" ".join(message.split())), file=sys.stderr)


def complain(message: str, code: int) -> int:
    """Prints one line on standard error and returns the exit code."""
    warn(message)
    return code
