"""Quality of samples in the features of a network: against closed forms, and what fails to cover what."""

import pytest
import torch

from multipyro.inference.evaluation import sample_quality


def flat(images):
    return images.flatten(1)


def test_the_distance_of_normal_features_is_that_in_closed_form():
    scales = torch.tensor([1.0, 2.0, 0.5])
    real, generated = torch.randn(20_000, 3), 1.0 + scales * torch.randn(20_000, 3)
    exact = 3.0 + (1 - scales).square().sum().item()  # commuting covariances: the distance of the standard deviations
    assert sample_quality(flat, real[:5000], generated[:5000]).frechet_distance == pytest.approx(exact, abs=0.15)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    turned = sample_quality(lambda images: images @ turn, real[:5000], generated[:5000])
    assert turned.frechet_distance == pytest.approx(exact, abs=0.15) and turned.num_features == 3
    halves = sample_quality(flat, real[:5000], real[5000:10000])
    assert halves.frechet_distance < 0.01


def test_precision_misses_what_is_no_image_and_recall_what_is_never_generated():
    modes = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    real = modes[torch.arange(400) % 2] + torch.randn(400, 2)
    one_mode = modes[0] + torch.randn(400, 2)
    few = sample_quality(flat, real, one_mode)
    assert few.precision.value > 0.9 and 0.4 < few.recall.value < 0.55
    elsewhere = torch.cat([one_mode[:200], 50.0 + torch.randn(200, 2)])
    wrong = sample_quality(flat, real, elsewhere)
    assert 0.4 < wrong.precision.value < 0.55 and wrong.precision.num == 400


def test_images_pass_through_the_network_in_batches_without_gradients():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1))
    sizes = []

    def extractor(images):
        sizes.append(len(images))
        return network(images)

    quality = sample_quality(extractor, torch.rand(25, 1, 8, 8), torch.rand(12, 1, 8, 8), batch_size=10)
    assert sizes == [10, 10, 5, 10, 2] and quality.num_features == 4 and quality.recall.num == 25


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="3 generated images are too few for 3 neighbors"):
        sample_quality(flat, torch.rand(9, 2), torch.rand(3, 2))
    with pytest.raises(ValueError, match="features of real images must be finite"):
        sample_quality(lambda images: images / 0, torch.zeros(9, 2), torch.rand(9, 2))
