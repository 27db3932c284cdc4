"""What the site is built from beside its pages: the sources, the table of methods, notebooks, images."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

__all__ = ["on_config", "on_files", "on_page_markdown"]

sys.path.insert(0, str(Path(__file__).parent))
from pages import ROOT, with_lists, with_sources, with_table

SUBPACKAGES = ("data", "guides", "inference", "ppl_models")


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Copies the source folders to where they are imported, for the reference is read from the files."""
    package = Path(tempfile.mkdtemp()) / "multipyro"
    without = shutil.ignore_patterns("__pycache__", *SUBPACKAGES)
    shutil.copytree(ROOT / "multipyro", package, ignore=without)
    for name in SUBPACKAGES:
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(package.parent)]
    return config


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebooks and figures of `examples/`."""
    # a page of mkdocs-jupyter is found by its folder and name alone
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(ROOT / "examples" / "notebooks", folder / "tutorials", ignore=shutil.ignore_patterns(".*"))
    for path in sorted((folder / "tutorials").glob("*.ipynb")):
        files.append(File(f"tutorials/{path.name}", str(folder), config.site_dir, config.use_directory_urls))
    image = ROOT / "examples" / "results" / "demo" / "word-to-image.png"
    files.append(File.generated(config, f"images/{image.name}", abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks on a page by classes of the examples and tables."""
    return with_lists(with_table(with_sources(markdown)))
