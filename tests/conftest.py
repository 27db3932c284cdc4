"""What holds in every test: a seed, an empty parameter store, validation on, one thread, no window for figures."""

import os

import pyro
import pytest
import torch

os.environ["MPLBACKEND"] = "Agg"
# two processes test at once, and threads that wait for one another's cores are slower than none
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_state():
    """Seed torch, numpy and random, empty Pyro's parameter store, validate every distribution and program."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()
