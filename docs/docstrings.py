"""A griffe extension: docstrings as this library writes them become docstrings that the site can render."""

import re
import textwrap
from typing import Any

import griffe

__all__ = ["Docstrings", "rendered"]

# `.. math:: first line`, then lines that are indented deeper than it
_DISPLAY = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*| *(?=\n\1 )))*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


def rendered(docstring: str) -> str:
    """The docstring with equations as in Markdown, not as in reStructuredText, and its example as a section."""

    def display(match: re.Match[str]) -> str:
        indent, first, *rest = match[1], *match[2].split("\n")
        lines = [first.strip(), *textwrap.dedent("\n".join(rest)).split("\n")]
        return "\n".join(indent + line for line in ("$$", *(line for line in lines if line.strip()), "$$"))

    text = _INLINE.sub(r"$\1$", _DISPLAY.sub(display, docstring))
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = rendered(obj.docstring.value)
