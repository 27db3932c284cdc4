"""What holds in every test: a seed, an empty parameter store, validation on, no window for pictures."""

import os

import pyro
import pytest

os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(autouse=True)
def fresh_state():
    """Seed torch, numpy and random, empty Pyro's parameter store, validate every distribution and program."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()
