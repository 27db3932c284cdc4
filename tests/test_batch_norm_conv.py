"""The networks of JMVAE for CelebA: layers, leading dimensions, single examples, and the modalities they are for."""

import pytest
import torch
from torch import nn

from multipyro._modes import batch_norms, batch_statistics, evaluation_mode
from multipyro.data import Modality
from multipyro.guides import JointEncoder
from multipyro.inference import build, fit_recipe, networks_for
from multipyro.ppl_models import MLP, NormalLikelihood
from multipyro.ppl_models.networks import BatchNormConvDecoder, BatchNormConvEncoder, BatchNormMLP, Discriminator

FACES = {
    "image": Modality("image", (3, 64, 64), "image", "normal"),
    "attributes": Modality("attributes", (40,), "vector", "bernoulli"),
}
SMALL = {**FACES, "image": Modality("image", (3, 28, 28), "image", "normal")}


def layer_types(network, *types):
    return [type(layer).__name__ for layer in network.layers if isinstance(layer, types)]


def test_the_layers_are_those_of_the_paper():
    encoder, decoder = BatchNormConvEncoder((3, 64, 64)), BatchNormConvDecoder(128, (3, 64, 64))
    convolutions = [part for part in encoder.layers if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [64, 128, 256, 256] and encoder.out_features == 4096
    assert [part.num_features for part in encoder.layers if isinstance(part, nn.BatchNorm2d)] == [128, 256, 256]
    transposed = [part for part in decoder.layers if isinstance(part, nn.ConvTranspose2d)]
    assert decoder.layers[0].out_features == 4096 and [p.out_channels for p in transposed] == [256, 128, 64, 3]
    assert isinstance(decoder.layers[-1], nn.ConvTranspose2d)  # a linear output
    assert all(part.kernel_size == (4, 4) and part.stride == (2, 2) for part in (*convolutions, *transposed))
    leaky = BatchNormConvEncoder((3, 64, 64), 8, batch_norm=False, negative_slope=0.2)
    assert layer_types(leaky, nn.BatchNorm2d, nn.LeakyReLU) == ["LeakyReLU"] * 4
    leaky = BatchNormConvDecoder(5, (3, 64, 64), 8, negative_slope=0.2)
    assert layer_types(leaky, nn.ReLU, nn.LeakyReLU) == ["LeakyReLU"] * 4
    assert layer_types(BatchNormMLP(40), nn.Linear, nn.BatchNorm1d, nn.ReLU) == [
        *("Linear", "ReLU", "Linear", "BatchNorm1d", "ReLU"),
    ]


def test_batch_norm_precedes_every_activation_of_an_mlp_but_not_its_output():
    hidden, normalized = ["Linear", "BatchNorm1d", "LeakyReLU"], {"activation": nn.LeakyReLU, "batch_norm": True}
    assert [type(layer).__name__ for layer in MLP(4, 2, (5, 6), **normalized).layers] == [*hidden, *hidden, "Linear"]
    features = MLP(4, 2, (5,), activate_output=True, **normalized)
    assert [type(layer).__name__ for layer in features.layers] == [*hidden, *hidden]
    assert [layer.bias is None for layer in features.layers if isinstance(layer, nn.Linear)] == [True, True]


@pytest.mark.parametrize("sides", [(64, 64), (32, 48)])
def test_any_leading_dimensions_and_sides(sides):
    encoder, decoder = BatchNormConvEncoder((3, *sides), 4), BatchNormConvDecoder(5, (3, *sides), 4)
    mlp, leaky = BatchNormMLP((2, 3), 7), MLP((2, 3), 7, (4,), nn.LeakyReLU, batch_norm=True)
    for network in (encoder, decoder, mlp, leaky):
        network.eval()
    images = decoder(torch.randn(2, 4, 5))
    assert images.shape == (2, 4, 3, *sides)
    torch.testing.assert_close(encoder(images)[1, 2], encoder(images[1, 2]))
    for network in (mlp, leaky):
        torch.testing.assert_close(network(torch.ones(2, 4, 2, 3))[1, 2], network(torch.ones(2, 3)))


def test_a_single_example_in_training_uses_the_running_statistics():
    for network, values in (
        (BatchNormMLP(4, 3), torch.randn(1, 4)),
        (BatchNormConvEncoder((3, 16, 16), 2), torch.rand(1, 3, 16, 16)),
        (BatchNormConvDecoder(2, (3, 16, 16), 2), torch.randn(1, 2)),
    ):
        before = [buffer.clone() for buffer in network.buffers()]
        output = network(values)
        assert all(map(torch.equal, before, network.buffers())) and network.layers.training
        torch.testing.assert_close(output, network.eval()(values))


def test_batch_statistics_change_no_buffer():
    network, values = BatchNormMLP(4, 3), torch.randn(9, 4)
    before = [buffer.clone() for buffer in network.buffers()]
    with batch_statistics(network.eval()):
        output = network.layers(values)
    assert all(map(torch.equal, before, network.buffers())) and not network.layers[3].training
    assert not torch.allclose(output, network(values))
    torch.testing.assert_close(output, network.train()(values))
    with evaluation_mode(*batch_norms(network)), batch_statistics(network):
        torch.testing.assert_close(output, network.layers(values))


@pytest.mark.parametrize("make", [lambda s: BatchNormConvEncoder(s), lambda s: BatchNormConvDecoder(2, s)])
def test_sides_must_be_divisible_by_16(make):
    for shape in ((3, 28, 28), (64, 64), (3, 64, 0)):
        with pytest.raises(ValueError, match="sides at least 16 and divisible by 16, got"):
            make(shape)
    with pytest.raises(ValueError, match=r"expected inputs of shape \(..., 3, 16, 16\), got \(2, 3, 32, 32\)"):
        BatchNormConvEncoder((3, 16, 16), 2)(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"expected inputs of shape \(..., 4\), got \(2, 5\)"):
        BatchNormMLP(4, 2)(torch.zeros(2, 5))


def test_large_color_images_and_the_vectors_beside_them_get_these_networks():
    networks = networks_for(FACES)
    branches = networks.branches()
    assert isinstance(branches["image"], BatchNormConvEncoder) and isinstance(branches["attributes"], BatchNormMLP)
    assert networks.joint_features == (1024,) and branches["image"].out_features == 4096
    assert networks.encoders(8)["attributes"].heads.in_features == 1024
    likelihood = networks.likelihoods(8)["image"]
    assert isinstance(likelihood, NormalLikelihood) and likelihood.log_scale.exp().item() == pytest.approx(0.27)
    assert [layer.out_features for layer in networks.likelihoods(8)["attributes"].network.layers[::2]] == [
        512,
        4096,
        40,
    ]
    assert isinstance(networks.select(["attributes"]).branches()["attributes"], BatchNormMLP)
    small = networks_for(SMALL)
    assert small.joint_features == () and not any(
        isinstance(network, BatchNormConvEncoder | BatchNormMLP) for network in small.branches().values()
    )


@pytest.mark.parametrize("kind", ["normalized", "leaky"])
def test_discriminators(kind):
    networks = networks_for(FACES, (16, 16))
    discriminator = networks.discriminator("image", kind)
    norms = [layer for layer in discriminator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert isinstance(discriminator, Discriminator) and len(norms) == (3 if kind == "normalized" else 0)
    assert discriminator(torch.rand(4, 3, 64, 64)).shape == (4,)
    assert networks.discriminator("attributes", kind)(torch.rand(4, 40)).shape == (4,)


@pytest.mark.parametrize(
    "method, options",
    [
        *((method, {}) for method in ("jmvae", "jmvae-kl", "telbo", "jnf", "cvae", "cmma")),
        *(("cvae", {"prior_network": True}), ("vlvae", {"inference": "joint", "aggregate": None})),
    ],
)
def test_joined_branches_have_a_layer_after_them(method, options):
    guide = build(method, networks_for(FACES, (8, 8)), 2, **options).guide
    joint = [part for part in guide.modules() if isinstance(part, JointEncoder)]
    heads = [part for name, part in guide.named_modules() if name.endswith("heads") and "flow" not in name]
    assert [part.encoder.network.layers[0].weight.shape for part in joint] == [(16, 64 + 8)]
    assert method == "jnf" or {part.in_features for part in heads} == {16}
    small = build(method, networks_for(SMALL, (8, 8)), 2, **options).guide
    assert not any("trunk" in name or "encoder.network.layers" in name for name, _ in small.named_parameters())


@pytest.mark.parametrize("method", ["jmvae", "jmvae-kl", "jmvae-gan", "telbo", "cvae", "cmma"])
def test_methods_train_on_faces_when_the_last_batch_is_a_single_example(method):
    torch.manual_seed(0)
    recipe = build(method, networks_for(FACES, (8, 8)), 2)
    x = {"image": torch.rand(5, 3, 64, 64), "attributes": torch.randint(2, (5, 40)).float()}
    batches = [({name: values[rows] for name, values in x.items()}, None) for rows in (slice(4), slice(4, 5))]
    if method != "jmvae":  # and one with a single observed image
        batches.append((x, {"image": torch.arange(5) == 2}))
    history = fit_recipe(recipe, batches, epochs=1, progress=False).history
    assert all(torch.isfinite(torch.tensor(value)) for value in history[0].values())
