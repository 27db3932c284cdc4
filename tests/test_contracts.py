"""Networks as users write them: decoders without sample dimensions, batch norm, encoders that return tuples, export."""

import pyro
import pytest
import torch
from torch import nn

from multipyro.data import Modality, MultimodalData
from multipyro.guides import MixtureOfProducts, NormalEncoder
from multipyro.inference import build, cross_generate, fit, log_likelihood, networks_for
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood, OneHotMLP


def with_features(network, number):
    network.out_features = number
    return network


def programs(encoder, decoder):
    likelihoods = {"a": NormalLikelihood(decoder), "b": CategoricalLikelihood(MLP(2, 3, (8,)))}
    encoders = {"a": encoder, "b": NormalEncoder(OneHotMLP(3, 8, (8,)), 2)}
    return MultimodalModel(2, likelihoods), MixtureOfProducts(2, encoders)


def volume_decoder():
    """Written for latents `(batch, latent_dim)`: it cannot take a dimension of samples."""
    return nn.Sequential(nn.Linear(2, 512), nn.Unflatten(1, (8, 4, 4, 4)), nn.ConvTranspose3d(8, 1, 4, 2, 1))


def test_a_decoder_without_sample_dimensions_is_called_with_flat_latents():
    encoder = NormalEncoder(
        with_features(nn.Sequential(nn.Conv3d(1, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32)), 32), 2
    )
    decoder = volume_decoder()
    model, guide = programs(encoder, decoder)
    x = {"a": torch.rand(5, 1, 8, 8, 8), "b": torch.randint(3, (5,))}
    latents = torch.randn(3, 5, 2)
    expected = torch.stack([decoder(part) for part in latents])
    torch.testing.assert_close(model.likelihoods["a"](latents).mean, expected)
    assert cross_generate(model, guide, {"b": x["b"]}, ["a"], 3)["a"].shape == (3, 5, 1, 8, 8, 8)
    assert log_likelihood(model, guide, x, ["a", "b"], num_samples=5).values.shape == (5,)


@pytest.mark.parametrize("masked", [False, True], ids=["complete", "masked"])
@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_batch_norm_in_a_last_batch_of_one_uses_running_statistics(where, masked):
    norm = {
        "encoder": lambda: with_features(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), 8),
        "decoder": lambda: nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
    }
    network = norm["encoder"]() if where == "encoder" else MLP(4, 8, (8,))
    decoder = norm["decoder"]() if where == "decoder" else MLP(2, 4, (8,))
    model, guide = programs(NormalEncoder(network, 2), decoder)
    modalities = {"a": Modality("a", (4,), "vector", "normal"), "b": Modality("b", (), "label", "categorical", 3)}
    observed = {"a": torch.arange(9) % 3 > 0} if masked else None
    data = MultimodalData("data", modalities, {"a": torch.randn(9, 4), "b": torch.randint(3, (9,))}, observed)
    result = fit(model, guide, elbo(MODEL, GUIDE), data, epochs=1, batch_size=4, progress=False)
    assert torch.tensor(result.history[0]["train/bound"]).isfinite()


class Moments(nn.Module):
    """An encoder as many write it."""

    def __init__(self):
        super().__init__()
        self.loc, self.log_variance = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, values):
        return self.loc(values), self.log_variance(values)


def test_an_encoder_that_returns_a_tuple_is_refused_by_name():
    _, guide = programs(Moments(), MLP(2, 4, (8,)))
    with pytest.raises(TypeError, match="the encoder of 'a' must return a distribution, got tuple: make it one"):
        guide({"a": torch.zeros(3, 4)})


def test_a_decoder_that_returns_a_tuple_is_refused_by_name():
    moments = Moments()
    moments.loc = moments.log_variance = nn.Linear(2, 4)
    with pytest.raises(TypeError, match="a network must return a tensor, Moments returned tuple"):
        programs(NormalEncoder(MLP(4, 8), 2), moments)[0]({"a": None}, num_rows=3)


TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


class Mean(nn.Module):
    """What is deployed: the mean of the posterior."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, values):
        return self.encoder(values).mean


@pytest.mark.skipif(TORCH < (2, 3), reason="torch 2.2 cannot trace the checks of a distribution")
@pytest.mark.parametrize("name", ["image", "label", "word"])
def test_encoders_can_be_exported(name):
    modalities = {
        "image": Modality("image", (1, 8, 8), "image", "normal"),
        "label": Modality("label", (), "label", "categorical", 3),
        "word": Modality("word", (4,), "text", "categorical", 5),
    }
    x = {"image": torch.rand(4, 1, 8, 8), "label": torch.randint(3, (4,)), "word": torch.randint(5, (4, 4))}
    encoder = Mean(build("mopoe", networks_for(modalities, (8,)), 3).guide.encoders[name]).eval()
    with pyro.validation_enabled(False):  # validation reads values
        exported = torch.export.export(encoder, (x[name],))
    torch.testing.assert_close(exported.module()(x[name]), encoder(x[name]))
