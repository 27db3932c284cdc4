"""Families of networks: which suit a modality, and which are picked for it."""

from collections.abc import Callable, Mapping, Sequence

from multipyro.data import Modality

__all__ = ["FAMILIES", "LARGE", "checked_family", "has_sides", "picked_families", "preferred_families", "suits"]

# the smallest side of the images that get the networks of JMVAE for CelebA
LARGE = 64
# the features of ResNet-101
_FEATURES = 2048


def _is_color(modality: Modality) -> bool:
    return modality.kind == "image" and modality.shape[0] == 3


def has_sides(modality: Modality, divisor: int, least: int) -> bool:
    """Whether it is an image whose sides are divisible, and large enough."""
    return modality.kind == "image" and all(side % divisor == 0 and side >= least for side in modality.shape[1:])


def _is_text(modality: Modality) -> bool:
    return modality.kind == "text" and modality.likelihood == "categorical" and len(modality.shape) == 1


#: Family of networks -> whether it suits a modality.
FAMILIES: dict[str, Callable[[Modality], bool]] = {
    "mlp": lambda modality: True,
    "shallow": lambda modality: modality.kind in ("image", "vector") and modality.likelihood != "categorical",
    "tapered": lambda modality: modality.kind == "vector" and modality.likelihood != "categorical",
    "convolutional": lambda modality: modality.kind == "image",
    "plain": lambda modality: has_sides(modality, 8, 16),
    "strided": lambda modality: has_sides(modality, 16, 16),
    "residual": lambda modality: modality.shape == (256,) if _is_text(modality) else modality.shape[1:] == (64, 64),
    "instance": lambda modality: has_sides(modality, 4, 16),
    "characters": lambda modality: _is_text(modality) and modality.dim >= 4 and modality.dim.bit_count() == 1,
    "sentence": lambda modality: _is_text(modality) and modality.dim % 8 == 0,
    "gru": _is_text,
}


def suits(modality: Modality, family: str) -> bool:
    """Whether a family suits a modality; raises where there is no such family."""
    if family not in FAMILIES:
        raise ValueError(f"unknown networks {family!r}: there are {', '.join(FAMILIES)}")
    return FAMILIES[family](modality)


def preferred_families(modalities: Mapping[str, Modality], preferred: Sequence[str]) -> dict[str, str]:
    """Modality -> the first of some families that suits it; without those that none suits."""
    found = {}
    for name, modality in modalities.items():
        suited = [family for family in preferred if suits(modality, family)]
        found |= {name: suited[0]} if suited else {}
    return found


def picked_families(modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Modality -> the family that is picked for it, with regard to those beside it."""
    picks = {name: _picked(modality) for name, modality in modalities.items()}
    written = [name for name, m in modalities.items() if m.kind == "image" and m.shape == (1, 28, 28)]
    return {**picks, **dict.fromkeys(written, "shallow")} if "plain" in picks.values() else picks


def _picked(modality: Modality) -> str:
    if _is_color(modality):
        small = "plain" if modality.shape[1:] == (32, 32) else "convolutional"
        return "strided" if has_sides(modality, 16, LARGE) else small
    if modality.shape == (_FEATURES,) and suits(modality, "tapered"):
        return "tapered"
    if modality.alphabet is not None and modality.dim >= 8 and suits(modality, "characters"):
        return "characters"
    if modality.vocabulary is not None and modality.dim >= 16 and suits(modality, "sentence"):
        return "sentence"
    return "mlp"


def checked_family(modality: Modality, family: str) -> str:
    """The family, which must suit the modality."""
    if not suits(modality, family):
        raise ValueError(
            f"the networks {family!r} do not suit modality {modality.name!r}: {modality.kind}, shape {modality.shape}"
        )
    return family
