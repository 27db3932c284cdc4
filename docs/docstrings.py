"""A griffe extension: docstrings as this library writes them become docstrings that the site can render."""

import re
import textwrap
from typing import Any

import griffe

__all__ = ["Docstrings", "rendered"]

# `.. math:: first line`, then lines that are indented deeper than it
_DISPLAY = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*| *(?=\n\1 )))*)", re.MULTILINE)
# `.. code-block:: toml`, an empty line, then lines that are indented deeper than it
_CODE = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1 +.*\n|\n(?=\1 ))+)", re.MULTILINE)
# a table between lines of `=`: the borders, the line of titles, and the rows
_TABLE = re.compile(r"^( *)(=+(?: =+)+)\n(.*)\n\1\2\n((?:.*\n)*?)\1\2$", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


def rendered(docstring: str) -> str:
    """The docstring with equations, code blocks and tables in Markdown, and its example as a section."""

    def display(match: re.Match[str]) -> str:
        indent, first, *rest = match[1], *match[2].split("\n")
        lines = [first.strip(), *textwrap.dedent("\n".join(rest)).split("\n")]
        return "\n".join(indent + line for line in ("$$", *(line for line in lines if line.strip()), "$$"))

    def code(match: re.Match[str]) -> str:
        indent, language, body = match[1], match[2], textwrap.dedent(match[3]).rstrip()
        return "\n".join(indent + line for line in (f"```{language}", *body.split("\n"), "```")) + "\n"

    def table(match: re.Match[str]) -> str:
        indent, borders, *lines = match[1], match[2], match[3], *match[4].rstrip().split("\n")
        starts = [border.start() + len(indent) for border in re.finditer("=+", borders)]
        ends = [*(start - 1 for start in starts[1:]), None]
        rows = [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines]
        rows.insert(1, ["---"] * len(starts))
        return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)

    text = _INLINE.sub(r"$\1$", _DISPLAY.sub(display, docstring))
    text = _TABLE.sub(table, _CODE.sub(code, text))
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = rendered(obj.docstring.value)
