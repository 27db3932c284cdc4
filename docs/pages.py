"""What pages of the documentation print from the code: classes of the examples, and the table of methods.

Run as a script, it brings the table of the README up to date.
"""

import ast
import re
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "kinds_table", "method_sections", "methods_table", "with_lists", "with_sources", "with_table"]

ROOT = Path(__file__).resolve().parents[1]
_SOURCE = re.compile(r"^<!-- source (\S+):(\w+) -->$", re.MULTILINE)
_TABLE = re.compile(r"(<!-- methods -->\n).*?(<!-- end of methods -->)", re.DOTALL)


def with_sources(page: str) -> str:
    """The page with each `<!-- source FILE:NAME -->` replaced by the definition of that name."""

    def definition(match: re.Match[str]) -> str:
        text = (ROOT / match[1]).read_text(encoding="utf-8")
        (node,) = (node for node in ast.parse(text).body if getattr(node, "name", None) == match[2])
        first = min(part.lineno for part in (node, *node.decorator_list))
        return "\n".join(("```python", *text.split("\n")[first - 1 : node.end_lineno], "```"))

    return _SOURCE.sub(definition, page)


def with_table(page: str) -> str:
    """The page with the table of methods between its marks `<!-- methods -->` and `<!-- end of methods -->`."""
    return _TABLE.sub(lambda match: match[1] + methods_table() + match[2], page)


def with_lists(page: str) -> str:
    """The page with `<!-- sections of methods -->` and `<!-- kinds -->` replaced by what they name."""
    for mark, write in (("<!-- sections of methods -->", method_sections), ("<!-- kinds -->", kinds_table)):
        page = page.replace(mark, write()) if mark in page else page
    return page


def methods_table() -> str:
    """The table of methods in Markdown, each objective printed from the value that trains."""
    from multipyro.inference import METHODS
    from multipyro.inference.recipes import equations

    rows = [("method", "what it is", "objective", "source"), ("---",) * 4]
    for name, info in METHODS.items():
        rows.append((f"`{name}`", info.title, ", then ".join(equations(name)), info.paper))
    return _rows(rows)


def kinds_table() -> str:
    """The kinds of data and their likelihoods in Markdown."""
    from multipyro.data import KINDS

    rows = [("kind", "default likelihood", "other likelihoods"), ("---",) * 3]
    for kind, (default, *others) in KINDS.items():
        rows.append((f"`{kind}`", f"`{default}`", ", ".join(f"`{other}`" for other in others)))
    return _rows(rows)


def method_sections() -> str:
    """A section for each method: its objective, what its guide supports, and its options."""
    from multipyro.inference import METHODS
    from multipyro.inference.recipes import COMMON_OPTIONS, equations

    sections = ["All methods take these options:\n", _options(COMMON_OPTIONS)]
    for name, info in METHODS.items():
        stages = "\n".join(equations(name))
        facts = {
            "source": info.paper,
            "supports": info.subsets,
            "takes, and predicts": info.takes,
            "networks": info.networks,
            "training data": "complete examples only" if info.needs_complete_rows else "any modality may be missing",
        }
        sections += [
            f"## {name}\n\n{info.title[0].upper()}{info.title[1:]}.\n\n```text\n{stages}\n```\n",
            _rows([("", ""), ("---",) * 2, *facts.items()]),
            _options(info.options),
        ]
    return "\n".join(sections)


def _options(options: dict[str, Any]) -> str:
    rows = [("option", "default", "choices", "what it sets"), ("---",) * 4]
    for option in options.values():
        choices = ", ".join(f"`{choice}`" for choice in option.choices)
        rows.append((f"`{option.name}`", f"`{option.default}`", choices, option.help))
    return _rows(rows) if options else ""


def _rows(rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
