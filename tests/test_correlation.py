"""Canonical correlation against the eigenproblem of the released code, and sentence vectors by hand."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from multipyro.inference.evaluation import CanonicalCorrelation, sentence_vectors, without_first_component


def views(number, seed=0):
    """Two views with one strong and one weak common direction."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(number, 2, generator=generator, dtype=torch.float64)
    first = common @ torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.3, -1.0, 0.4, 0.0]], dtype=torch.float64)
    second = common @ torch.tensor([[0.2, 1.0, 0.3], [0.0, 0.1, -0.4]], dtype=torch.float64)
    first = first + 0.3 * torch.randn(number, 4, generator=generator, dtype=torch.float64)
    second = second + 0.5 * torch.randn(number, 3, generator=generator, dtype=torch.float64) + 7
    return first, second


def released(first, second, directions, ridge=1e-12):
    """The generalized eigenproblem of MMVAE's code: all covariances against those within the views."""
    joined = np.concatenate([first, second], 1)
    joined = joined - joined.mean(0)
    size = first.shape[1]
    every = joined.T @ joined / len(joined)
    within = scipy.linalg.block_diag(every[:size, :size], every[size:, size:]) + ridge * np.eye(len(every))
    values, vectors = scipy.linalg.eigh(every, within)
    leading = vectors[:, np.argsort(-values)[:directions]]
    return np.sort(values)[::-1][:directions] - 1, leading[:size], leading[size:]


@pytest.mark.parametrize("directions", (1, 2, 3))
def test_directions_and_cosines_are_those_of_the_released_code(directions):
    (first, second), (a, b) = views(500), views(50, seed=1)
    cca = CanonicalCorrelation(first, second, directions)
    strengths, left, right = released(first.numpy(), second.numpy(), directions)
    assert cca.correlations.tolist() == pytest.approx(strengths.tolist(), abs=1e-8)
    u, v = (a.numpy() - first.numpy().mean(0)) @ left, (b.numpy() - second.numpy().mean(0)) @ right
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    assert cca.cosines(a, b).tolist() == pytest.approx(cosines.tolist(), abs=1e-6)
    correlation = cca.correlation(a, b)
    assert correlation.value == pytest.approx(cosines.mean(), abs=1e-6)
    assert correlation.se == pytest.approx(cosines.std(ddof=1) / math.sqrt(50), abs=1e-6)


def test_correlations_approach_those_of_the_distribution():
    """One common cause in each view, of half the variance: the correlation is 1/2."""
    torch.manual_seed(0)
    common = torch.randn(40_000, 1)
    first, second = (torch.cat([common + torch.randn(40_000, 1), torch.randn(40_000, 1)], 1) for _ in range(2))
    cca = CanonicalCorrelation(first, second, 2)
    assert cca.correlations.tolist() == pytest.approx([0.5, 0.0], abs=0.02)


def test_independent_pairs_have_no_correlation_and_equal_ones_have_all():
    first, second = views(500)
    cca = CanonicalCorrelation(first, first @ torch.randn(4, 4, dtype=torch.float64), 4)
    assert cca.correlation(first[:50], first[:50] @ torch.zeros(4, 4, dtype=torch.float64)).num == 50
    shuffled = CanonicalCorrelation(first, second, 2).correlation(first, second.roll(250, 0))
    assert abs(shuffled.value) < 4 * shuffled.se


def test_views_with_dependent_entries():
    first, second = views(500)
    cca = CanonicalCorrelation(torch.cat([first, first[:, :1]], 1), second, 2)
    assert cca.correlations.tolist() == pytest.approx(CanonicalCorrelation(first, second, 2).correlations.tolist())


def test_bad_views_are_refused():
    with pytest.raises(ValueError, match="same data points, got 3 and 4"):
        CanonicalCorrelation(torch.ones(3, 2), torch.ones(4, 2), 1)
    with pytest.raises(ValueError, match="from 1 to the smaller size 2, got 40"):
        CanonicalCorrelation(torch.ones(3, 2), torch.ones(3, 5))


def test_sentence_vectors_by_hand():
    """Words 0 and 1 in vectors (1, 0) and (0, 2); the end is word 2, and what follows it does not count."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    frequencies = torch.tensor([0.001, 0.003, 0.1])
    tokens = torch.tensor([[0, 1, 2, 1], [1, 1, 1, 1]])
    # weights a / (a + f): 1/2 and 1/4; three tokens up to the end, four without one
    expected = torch.tensor([[0.5 / 3, 0.5 / 3], [0.0, 0.5]])
    torch.testing.assert_close(sentence_vectors(tokens, vectors, frequencies, end=2), expected)
    plain = sentence_vectors(tokens, vectors, torch.zeros(3), end=2)
    torch.testing.assert_close(plain, torch.tensor([[1 / 3, 2 / 3], [0.0, 2.0]]))


def test_the_first_component_is_taken_away():
    train = torch.tensor([[3.0, 4.0], [-6.0, -8.0], [0.4, -0.3]])
    (left,) = without_first_component(train, [torch.tensor([[3.0, 4.0], [4.0, -3.0], [7.0, 1.0]])])
    torch.testing.assert_close(left, torch.tensor([[0.0, 0.0], [4.0, -3.0], [4.0, -3.0]]), atol=1e-5, rtol=0)
