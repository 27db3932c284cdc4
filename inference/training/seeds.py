"""Seeds of single training steps, so that a run can be repeated from any of its steps."""

import hashlib

__all__ = ["step_seed"]


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """The seed of one training step, the same on every machine.

    `torch.manual_seed(step_seed(seed, epoch, batch))` before `svi.step(x, observed)` makes a plain loop draw what
    `fit` draws.

    Returns:
        A whole number from 0 to below 2^63.

    Example:
        >>> step_seed(0, 3, 17) == step_seed(0, 3, 17) != step_seed(0, 3, 18)
        True
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{batch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (2**63)
