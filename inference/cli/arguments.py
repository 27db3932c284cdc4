"""What the arguments of the command line mean, checked before anything is trained."""

import argparse
import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

from multipyro.data import DATASETS, Modality
from multipyro.inference.evaluation import supports
from multipyro.inference.recipes import METHODS, Recipe
from multipyro.inference.recipes.architectures import first_suitable

__all__ = [
    "check_methods",
    "likelihoods_from",
    "likelihoods_of",
    "missing_from",
    "networks_from",
    "options_from",
    "picture",
    "weights_from",
]


def check_methods(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raises for an unknown method, and where `--particles` would have no effect."""
    for method in names:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
    if arguments.particles is not None and not any("particles" in METHODS[name].options for name in names):
        having = [name for name, info in METHODS.items() if "particles" in info.options]
        raise ValueError(f"--particles has no effect on {', '.join(names)}: it is an option of {', '.join(having)}")


def picture(arguments: argparse.Namespace, recipe: Recipe) -> tuple[list[str], list[str]]:
    """What the picture at the end of a training is given, and what it shows."""
    names, conditions = recipe.model.modalities, list(getattr(recipe.model, "conditions", ()))
    for option in ("given", "target"):
        unknown = [name for name in getattr(arguments, option) or () if name not in names]
        if unknown:
            raise ValueError(f"--{option} names {', '.join(unknown)}: {recipe.name} has {', '.join(names)}")
    default = DATASETS[arguments.data].default_given if arguments.data in DATASETS else ()
    given = arguments.given or conditions
    given = given or [name for name in default if name in names] or list(names[:1])
    if arguments.given and not (supports(recipe.guide, given) and set(conditions) <= set(given)):
        raise ValueError(f"--given {' '.join(given)}: {recipe.name} predicts nothing from it")
    fixed = [name for name in arguments.target or () if name in conditions]
    if fixed:
        raise ValueError(f"--target {' '.join(fixed)}: {recipe.name} generates given it and cannot generate it")
    generated = [name for name in names if name not in conditions]
    return given, arguments.target or [name for name in generated if name not in given] or generated


def options_from(pairs: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """Options from KEY=VALUE, values as Python writes them (true and false in small letters too), else as text."""
    found = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"{flag} must be KEY=VALUE, got {pair!r}")
        try:
            found[key] = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            found[key] = text
    return found


def weights_from(pairs: Sequence[str] | None) -> dict[str, float] | str | None:
    """Modality -> likelihood weight from NAME=NUMBER, or the word dimension."""
    if not pairs:
        return None
    if list(pairs) == ["dimension"]:
        return "dimension"
    weights = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            weights[name] = float(text)
        except ValueError:
            raise ValueError(f"--weights must be NAME=NUMBER or the word dimension, got {pair!r}") from None
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise ValueError(f"a likelihood weight must be a number from 0 on, got {pair!r}")
    return weights


def networks_from(
    pairs: Sequence[str] | None, method: str, modalities: Mapping[str, Modality]
) -> dict[str, str] | str | None:
    """Modality -> architecture from NAME=ARCHITECTURE, one architecture for all that it suits, or those of a paper."""
    if not pairs:
        return None
    if list(pairs) == ["paper"]:
        if not METHODS[method].architectures:
            having = [name for name, info in METHODS.items() if info.architectures]
            raise ValueError(
                f"--networks paper: no networks of {method}'s paper are known, only of {', '.join(having)}"
            )
        return first_suitable(modalities, METHODS[method].architectures)
    if len(pairs) == 1 and "=" not in pairs[0]:
        return pairs[0]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(
            f"--networks must be one architecture, or NAME=ARCHITECTURE for each, got {wrong[0]!r} among {len(pairs)}"
        )
    return dict(pair.split("=", 1) for pair in pairs)


def likelihoods_from(pairs: Sequence[str]) -> tuple[dict[str, str], dict[str, float | str]]:
    """Modality -> family, and modality -> scale, from NAME=FAMILY or NAME=FAMILY:SCALE."""
    families: dict[str, str] = {}
    scales: dict[str, float | str] = {}
    for pair in pairs:
        name, separator, told = pair.rpartition("=")
        if not separator:
            raise ValueError(f"--likelihood must be NAME=FAMILY or NAME=FAMILY:SCALE, got {pair!r}")
        families[name], separator, scale = told.partition(":")
        if separator:
            try:
                scales[name] = float(scale)
            except ValueError:
                scales[name] = scale  # learned, or channels
    return families, scales


def likelihoods_of(config: Mapping[str, Any], built_in: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """Likelihoods and scales by modality that a run has in place of those of its data set, from its `run.json`."""
    modalities = config["data"]["modalities"]
    if built_in and config["data"].get("options") is not None:  # what the options leave open was set by the user
        scales = {name: fields.get("scale") for name, fields in modalities.items()}
        return {name: fields["likelihood"] for name, fields in modalities.items()}, scales
    families, scales = likelihoods_from((config["config"] or {}).get("likelihood", []))
    return {n: v for n, v in families.items() if n in modalities}, {n: v for n, v in scales.items() if n in modalities}


def missing_from(pairs: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Modality -> share of missing rows, from a single number or from NAME=SHARE."""
    shares: dict[str, float] = {}
    for pair in pairs:
        name, separator, text = pair.rpartition("=")
        try:
            shares.update(dict.fromkeys([name] if separator else names, float(text)))
        except ValueError:
            raise ValueError(f"--missing must be a share or NAME=SHARE, got {pair!r}") from None
    return shares
