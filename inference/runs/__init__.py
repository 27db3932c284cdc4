"""Run folders: the settings of a run, its checkpoints, and how to load it again."""

from multipyro.inference.runs.checkpoints import load_state, save_state
from multipyro.inference.runs.description import describe_modalities, versions
from multipyro.inference.runs.folder import checkpoint_of, read_run
from multipyro.inference.runs.loading import LoadedRun, load

__all__ = [
    "LoadedRun",
    "checkpoint_of",
    "describe_modalities",
    "load",
    "load_state",
    "read_run",
    "save_state",
    "versions",
]
