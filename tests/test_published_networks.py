"""The published networks: numbers of parameters, leading dimensions, single examples, and errors."""

import itertools

import pytest
import torch
from torch import nn

from multipyro.guides import NormalEncoder
from multipyro.ppl_models import ConvDecoder, ConvEncoder
from multipyro.ppl_models.networks import (
    CharacterDecoder,
    CharacterEncoder,
    GRUTextEncoder,
    InstanceNormConvDecoder,
    InstanceNormConvEncoder,
    ResidualConvDecoder,
    ResidualConvEncoder,
    ResidualMLP,
    ResidualTextDecoder,
    ResidualTextEncoder,
    SentenceDecoder,
    SentenceEncoder,
)

IMAGE, SMALL, STRING, CAPTION, WORD = (3, 64, 64), (3, 16, 16), (256,), (32,), (8,)


def convolution(before, after, *kernel, bias=True):
    size = before * after
    for side in kernel:
        size *= side
    return size + bias * after


def block(before, after, *kernel, bias):
    """Two normalizations, a 1x1 and a strided convolution; the skip with its own convolution and normalization."""
    ones = (1,) * len(kernel)
    branch = 4 * before + convolution(before, before, *ones, bias=bias) + convolution(before, after, *kernel, bias=bias)
    return branch + convolution(before, after, *kernel, bias=False) + 2 * after


IMAGE_CHANNELS = (128, 256, 384, 512, 640)
TEXT_CHANNELS = (128, 256, 384, 512, 640, 640, 640)
IMAGE_STEPS = list(zip(IMAGE_CHANNELS[:-1], IMAGE_CHANNELS[1:], strict=True))
TEXT_STEPS = list(zip(TEXT_CHANNELS[:-1], TEXT_CHANNELS[1:], strict=True))
IMAGE_BLOCKS = sum(block(a, b, 4, 4, bias=False) for a, b in IMAGE_STEPS)
TEXT_BLOCKS = sum(block(a, b, 4, bias=True) for a, b in TEXT_STEPS)
UP_IMAGE = sum(block(b, a, 4, 4, bias=False) for a, b in IMAGE_STEPS)
UP_TEXT = sum(block(b, a, 4, bias=True) for a, b in TEXT_STEPS)
SENTENCE = ((1, 32, (4, 4)), (32, 64, (4, 4)), (64, 128, (4, 4)), (128, 256, (1, 4)), (256, 512, (1, 4)))
SENTENCE_LAYERS = sum(convolution(a, b, *kernel, bias=False) for a, b, kernel in SENTENCE)
INSTANCE = (
    convolution(64, 128, 3, 3) + convolution(128, 256, 3, 3) + 6 * convolution(256, 256, 3, 3)
)  # instance norm has no parameters

SVHN = (3, 32, 32)


def convolutions(*channels):
    return sum(convolution(before, after, 4, 4) for before, after in itertools.pairwise(channels))


# network at the published size, number of parameters by hand
PUBLISHED = {
    "characters in": (
        lambda: CharacterEncoder(71, 8),
        convolution(71, 128, 1) + 2 * convolution(128, 128, 4),
    ),
    "characters out": (
        lambda: CharacterDecoder(20, 71, 8),
        21 * 128 + 2 * convolution(128, 128, 4) + convolution(128, 71, 1),
    ),
    "image in": (lambda: ResidualConvEncoder(IMAGE), convolution(3, 128, 3, 3, bias=False) + IMAGE_BLOCKS),
    "image out": (lambda: ResidualConvDecoder(64, IMAGE), 65 * 640 + UP_IMAGE + convolution(128, 3, 3, 3)),
    "string in": (lambda: ResidualTextEncoder(71), convolution(71, 128, 4) + TEXT_BLOCKS),
    "string out": (lambda: ResidualTextDecoder(64, 71), 65 * 640 + UP_TEXT + convolution(128, 71, 4)),
    "sentence in": (lambda: SentenceEncoder(1590), 1590 * 128 + SENTENCE_LAYERS + 2 * (32 + 64 + 128 + 256 + 512)),
    "sentence out": (
        lambda: SentenceDecoder(64, 1590),
        64 * 8192 + SENTENCE_LAYERS + 1 + 2 * (512 + 256 + 128 + 64 + 32) + 129 * 1590,
    ),
    "scene in": (
        lambda: InstanceNormConvEncoder((3, 112, 112)),
        convolution(3, 64, 7, 7) + INSTANCE + convolution(256, 10, 3, 3) + (7840 + 1) * 1000 + 1001 * 200,
    ),
    "scene out": (
        lambda: InstanceNormConvDecoder(200, (3, 112, 112)),
        convolution(64, 3, 7, 7)
        + INSTANCE
        + convolution(10, 256, 3, 3)
        + 201 * 1000
        + 1001 * 7840
        - 128
        - 256
        + 64
        + 128,
    ),
    # of the two heads one map of 100; three layers, then five
    "shared in": (lambda: ResidualMLP(200, 100), 200 * 500 + 1000 + 501 * 500 + 501 * 100),
    "shared out": (
        lambda: ResidualMLP(50, 200, num_blocks=2),
        50 * 500 + 500 * 500 + 2 * (1000 + 501 * 500) + 501 * 200,
    ),
    # the heads, and the layer that MoPoE has before them, are convolutions of the whole map in the papers
    "mmvae svhn in": (
        lambda: NormalEncoder(ConvEncoder(SVHN, None, (32, 64, 128), 4), 20),
        convolutions(3, 32, 64, 128) + 2 * convolutions(128, 20),
    ),
    "mmvae svhn out": (lambda: ConvDecoder(20, SVHN, (128, 64, 32), 4), convolutions(20, 128, 64, 32, 3)),
    "mopoe svhn in": (
        lambda: NormalEncoder(ConvEncoder(SVHN, 128, (32, 64, 64), 4), 20),
        convolutions(3, 32, 64, 64, 128) + 2 * convolution(128, 20),
    ),
    "mopoe svhn out": (
        lambda: ConvDecoder(20, SVHN, (64, 64, 32), 4, 128),
        convolution(20, 128) + convolutions(128, 64, 64, 32, 3),
    ),
    "birds in": (
        lambda: NormalEncoder(ConvEncoder(IMAGE, None, (64, 128, 256, 512), 4), 64),
        convolutions(3, 64, 128, 256, 512) + 2 * convolutions(512, 64),
    ),
    "birds out": (lambda: ConvDecoder(64, IMAGE, (512, 256, 128, 64), 4), convolutions(64, 512, 256, 128, 64, 3)),
    "words in": (lambda: GRUTextEncoder(20, 9), 20 * 100 + 3 * 200 * (100 + 200 + 2)),
}

ENCODERS = {
    "map": (lambda: ConvEncoder(SMALL, None, (2, 3), 4), SMALL),
    "map and layer": (lambda: ConvEncoder((3, 16, 24), 5, (2, 3), 4), (3, 16, 24)),
    "spectrum": (lambda: ConvEncoder((1, 21), 5, (2, 3)), (1, 21)),
    "volume": (lambda: ConvEncoder((2, 4, 5, 6), 5, (2, 3)), (2, 4, 5, 6)),
    "characters": (lambda: CharacterEncoder(7, 8, 6), WORD),
    "longer characters": (lambda: CharacterEncoder(7, 32, 6), CAPTION),
    "images": (lambda: ResidualConvEncoder(IMAGE, 2), IMAGE),
    "strings": (lambda: ResidualTextEncoder(7, base_channels=2), STRING),
    "sentences": (lambda: SentenceEncoder(7, 32, 32, padding_id=1), CAPTION),
    "scenes": (lambda: InstanceNormConvEncoder(SMALL, 5, 2), SMALL),
    "words": (lambda: GRUTextEncoder(7, 8, 5, 4), WORD),
}
DECODERS = {
    "map": (lambda: ConvDecoder(4, SMALL, (3, 2), 4), SMALL),
    "map and layer": (lambda: ConvDecoder(4, (3, 16, 24), (3, 2), 4, 5), (3, 16, 24)),
    "spectrum": (lambda: ConvDecoder(4, (1, 21), (3, 2)), (1, 21)),
    "volume": (lambda: ConvDecoder(4, (2, 8, 4, 12), (3, 2), 4), (2, 8, 4, 12)),
    "characters": (lambda: CharacterDecoder(4, 7, 8, 6), (8, 7)),
    "longer characters": (lambda: CharacterDecoder(4, 7, 32, 6), (32, 7)),
    "images": (lambda: ResidualConvDecoder(4, IMAGE, 2), IMAGE),
    "strings": (lambda: ResidualTextDecoder(4, 7, base_channels=2), (256, 7)),
    "sentences": (lambda: SentenceDecoder(4, 7, 32, 32), (32, 7)),
    "scenes": (lambda: InstanceNormConvDecoder(4, SMALL, 2), SMALL),
    "shared": (lambda: ResidualMLP(4, 9, 6, 2), (9,)),
}


TEXTS = (STRING, CAPTION, WORD)


def values(shape, *lead):
    return torch.randint(7, (*lead, *shape)) if shape in TEXTS else torch.rand(*lead, *shape)


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_have_the_published_number_of_parameters(name):
    make, number = PUBLISHED[name]
    assert sum(parameter.numel() for parameter in make().parameters()) == number


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_accept_any_leading_dimensions(name):
    make, shape = ENCODERS[name]
    network = make().eval()
    x = values(shape, 3, 2)
    output = network(x)
    assert output.shape == (3, 2, network.out_features)
    assert torch.allclose(output[1], network(x[1]), atol=1e-5)
    assert not torch.allclose(output[0], output[1], atol=1e-3)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_accept_any_leading_dimensions(name):
    make, shape = DECODERS[name]
    network = make().eval()
    z = torch.randn(3, 2, 4)
    output = network(z)
    assert output.shape == (3, 2, *shape) and getattr(network, "out_shape", shape) == shape
    assert torch.allclose(output[1], network(z[1]), atol=1e-5)
    assert not torch.allclose(output[0], output[1], atol=1e-4)


@pytest.mark.parametrize("name", [*ENCODERS, *(f"{name} out" for name in DECODERS)])
def test_every_parameter_gets_a_finite_gradient_even_from_a_single_example(name):
    torch.manual_seed(0)
    make, shape = DECODERS[name.removesuffix(" out")] if name.endswith(" out") else ENCODERS[name]
    network = make()
    for rows in (1, 4):
        network.zero_grad()
        x = torch.randn(rows, 4) if name.endswith(" out") else values(shape, rows)
        network(x).square().sum().backward()
    dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    assert sum(bool(p.grad.any()) for p in network.parameters()) > 0.7 * len(list(network.parameters()))


def test_a_residual_mlp_adds_its_input_padded_with_zeros():
    network = ResidualMLP(2, None, 3, num_blocks=2).eval()
    assert network.out_features == 3
    for parameter in network.parameters():
        parameter.data.zero_()
    z = torch.randn(5, 2)
    assert torch.equal(network(z), nn.functional.pad(z, (0, 1)))
    assert not network.last.state_dict() and ResidualMLP(2, 4, 3)(z).shape == (5, 4)


def test_the_last_layer_of_a_sentence_may_be_the_embedding():
    encoder = SentenceEncoder(9, 32, 32)
    decoder = SentenceDecoder(4, 9, 32, 32, tied_weight=encoder.embedding.weight)
    assert decoder.words.weight is encoder.embedding.weight
    with pytest.raises(ValueError, match=r"tied_weight must have shape \(8, 32\), got \(9, 32\)"):
        SentenceDecoder(4, 8, 32, 32, tied_weight=encoder.embedding.weight)


def test_a_padding_word_is_embedded_as_zeros():
    encoder = SentenceEncoder(9, 32, 32, padding_id=1)
    assert not encoder.embedding.weight[1].any() and encoder.embedding.weight[0].any()


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: CharacterEncoder(7, 12), "power of 2 of at least 4, got 12"),
        (lambda: CharacterDecoder(4, 7, 2), "power of 2 of at least 4, got 2"),
        (lambda: CharacterEncoder(7, 8)(torch.full((1, 8), 7)), "from 0 to 6, or -1 for a missing entry, got 7 to 7"),
        (lambda: ResidualTextEncoder(7, base_channels=2)(torch.full((1, 256), -2)), "missing entry, got -2 to -2"),
        (lambda: GRUTextEncoder(7, 8)(torch.zeros(1, 9, dtype=torch.int64)), r"shape \(..., 8\), got \(1, 9\)"),
        (lambda: ResidualConvEncoder((3, 32, 32)), r"must be \(channels, 64, 64\), got \(3, 32, 32\)"),
        (lambda: ResidualConvEncoder(IMAGE, 2)(torch.zeros(1, 1, 64, 64)), "expected inputs of shape"),
        (lambda: ResidualTextDecoder(4, 7, 128), "length must be 256, got 128"),
        (lambda: SentenceEncoder(7, 12), "divisible by 8"),
        (lambda: ConvEncoder((3, 28, 28), kernel_size=4), r"sides divisible by 8, got \(3, 28, 28\)"),
        (lambda: ConvDecoder(4, (3, 32, 34), (3, 2), 4), r"sides divisible by 4, got \(3, 32, 34\)"),
        (lambda: ConvEncoder((28,)), r"must be \(channels, \*sides\) with 1 to 3 sides, got \(28,\)"),
        (lambda: ConvDecoder(4, SMALL, kernel_size=5), "kernel_size must be 3 or 4, got 5"),
        (lambda: ConvEncoder(SMALL, kernel_size=4)(torch.zeros(1, 3, 8, 8)), "expected inputs of shape"),
        (lambda: InstanceNormConvEncoder((3, 18, 16)), "divisible by 4"),
        (lambda: InstanceNormConvEncoder(SMALL, 5, 2)(torch.zeros(1, 3, 8, 8)), "expected inputs of shape"),
        (lambda: ResidualMLP(9, 4, 8), "at most hidden_features"),
        (lambda: ResidualMLP(4, 4, 8, 0), "num_blocks at least 1, got 4, 8 and 0"),
    ],
)
def test_invalid_arguments_are_named(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("name", [name for name, (_, shape) in ENCODERS.items() if shape in TEXTS])
def test_a_missing_token_counts_for_nothing(name):
    make, shape = ENCODERS[name]
    network = make().eval()
    x = values(shape, 1)
    missing = x.clone()
    missing[0, 3] = -1
    assert network(missing).isfinite().all() and not torch.allclose(network(missing), network(x))


def test_dropout_is_off_in_evaluation():
    network = ResidualConvEncoder(IMAGE, 2).eval()
    x = torch.rand(2, *IMAGE)
    assert torch.equal(network(x), network(x))
    assert any(isinstance(layer, nn.Dropout2d) for layer in network.modules())
