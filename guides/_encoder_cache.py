"""Results of encoders, shared by the guides of one step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

__all__ = ["encode_once", "encoders_run_once"]

_RESULTS: ContextVar[dict | None] = ContextVar("multipyro_encoder_results", default=None)


@contextmanager
def encoders_run_once() -> Iterator[None]:
    """Within this context an encoder that is called again with the same tensors returns its first result.

    An objective opens it for one step and closes it before the parameters change. The inputs are kept alive as long as
    the context, so that no other tensor can have the same identity.
    """
    token = _RESULTS.set({})
    try:
        yield
    finally:
        _RESULTS.reset(token)


def encode_once(encoder: Any, inputs: tuple, encode: Callable[[], Any]) -> Any:
    """The result of `encode()`, remembered within `encoders_run_once` by `encoder` and the tensors in `inputs`.

    A frozen encoder, one in another mode, or one with other parameters that require a gradient, has its own result.
    """
    results = _RESULTS.get()
    if results is None:
        return encode()
    key = (id(encoder), *map(id, inputs), torch.is_grad_enabled(), *_state(encoder))
    if key not in results:
        results[key] = (encoder, inputs, encode())
    return results[key][-1]


def _state(encoder: Any) -> Iterator[bool]:
    """The mode of every part, and which of its parameters require a gradient."""
    for part in encoder.modules() if isinstance(encoder, nn.Module) else ():
        yield part.training
        for parameter in part._parameters.values():
            yield parameter is not None and parameter.requires_grad
