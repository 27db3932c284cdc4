"""What pages of the documentation print from the code: classes of the examples, and the table of methods.

Run as a script, it brings the table of the README up to date.
"""

import ast
import re
from pathlib import Path

__all__ = ["ROOT", "methods_table", "with_sources", "with_table"]

ROOT = Path(__file__).resolve().parents[1]
_SOURCE = re.compile(r"^<!-- source (\S+):(\w+) -->$", re.MULTILINE)
_TABLE = re.compile(r"(<!-- methods -->\n).*?(<!-- end of methods -->)", re.DOTALL)


def with_sources(page: str) -> str:
    """The page with each `<!-- source FILE:NAME -->` replaced by the definition of that name."""

    def definition(match: re.Match[str]) -> str:
        text = (ROOT / match[1]).read_text(encoding="utf-8")
        (node,) = (node for node in ast.parse(text).body if getattr(node, "name", None) == match[2])
        return f"```python\n{ast.get_source_segment(text, node)}\n```"

    return _SOURCE.sub(definition, page)


def with_table(page: str) -> str:
    """The page with the table of methods between its marks `<!-- methods -->` and `<!-- end of methods -->`."""
    return _TABLE.sub(lambda match: match[1] + methods_table() + match[2], page)


def methods_table() -> str:
    """The table of methods in Markdown, each objective printed from the recipe."""
    from multipyro.inference import METHODS

    rows = [("method", "objective", "subsets it supports", "source"), ("---",) * 4]
    rows += [(f"`{info.name}`", info.programs, info.subsets, info.paper) for info in METHODS.values()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
