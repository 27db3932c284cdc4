"""Errors and intervals of shares and means, against formulas written out and against their coverage."""

import math

import pytest
import torch

from multipyro.inference.evaluation import Estimate, estimate_mean, estimate_share, paired_difference

Z = 1.959963984540054


def roots(successes, trials):
    """Wilson's limits, as the roots of `(share - p)^2 = z^2 p (1 - p) / trials` in `p`."""
    share, square = successes / trials, Z**2 / trials
    a, b, c = 1 + square, -(2 * share + square), share**2
    spread = math.sqrt(b * b - 4 * a * c)
    return (-b - spread) / (2 * a), (-b + spread) / (2 * a)


@pytest.mark.parametrize(("successes", "trials"), [(7, 10), (0, 25), (25, 25), (299, 300)])
def test_the_interval_of_a_share_is_wilsons(successes, trials):
    correct = torch.arange(trials) < successes
    estimate = estimate_share(correct)
    assert estimate.value == successes / trials and estimate.num == trials
    assert estimate.se == pytest.approx(math.sqrt(estimate.value * (1 - estimate.value) / trials))
    assert (estimate.low, estimate.high) == pytest.approx(roots(successes, trials), abs=1e-9)
    assert estimate.bracket is None


def test_wilsons_interval_is_the_published_one():
    """Newcombe (1998), Table I: 81 of 263 and 0 of 20."""
    first, second = estimate_share(torch.arange(263) < 81), estimate_share(torch.zeros(20))
    assert (first.low, first.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (second.low, second.high) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_trials_of_one_data_point_count_as_one_where_they_agree():
    correct = (torch.arange(50) < 30).double()
    once, repeated = estimate_share(correct), estimate_share(4 * correct, torch.full((50,), 4))
    assert repeated.se == pytest.approx(once.se)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    independent = estimate_share(torch.arange(200) < 120)
    assert independent.se == pytest.approx(once.se / 2)
    certain = estimate_share(torch.full((50,), 4.0), torch.full((50,), 4))
    assert certain.low == pytest.approx(roots(50, 50)[0])


def test_the_error_of_dependent_trials_is_that_of_repeated_experiments():
    """Each data point has its probability, uniform, and 1 to 4 trials with it."""
    torch.manual_seed(0)
    estimates, trials = [], torch.arange(100) % 4 + 1
    for _ in range(400):
        probability = torch.rand(100)
        estimates.append(estimate_share(torch.distributions.Binomial(trials, probability).sample(), trials))
    values = torch.tensor([estimate.value for estimate in estimates])
    stated = sum(estimate.se for estimate in estimates) / 400
    assert abs(values.std().item() / stated - 1) < 4 / math.sqrt(2 * 400)
    covered = sum(estimate.low <= 0.5 <= estimate.high for estimate in estimates) / 400
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_a_data_point_without_trials_does_not_count():
    estimate = estimate_share(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1, 0, 2]))
    assert estimate.value == 2 / 3 and estimate.num == 2
    assert estimate.values.isnan().tolist() == [False, True, False]


def test_the_bracket_widens_by_the_errors_of_the_classifiers():
    correct = torch.arange(100) < 90
    assert estimate_share(correct, None, [0.02]).bracket == pytest.approx((0.88, 0.92))
    assert estimate_share(correct, None, [0.05, 0.1]).bracket == pytest.approx((0.75, 1.0))
    assert estimate_share(correct, None, [0.0, 0.0]).bracket is None
    assert estimate_share(correct, None, [0.02]).to_dict()["bracket"] == pytest.approx([0.88, 0.92])


def test_a_mean_and_its_interval():
    values = torch.tensor([1.0, 2.0, math.nan, 6.0])
    estimate = estimate_mean(values)
    assert estimate.value == 3.0 and estimate.num == 3
    assert estimate.se == pytest.approx(math.sqrt(7.0 / 3))
    assert estimate.high - estimate.low == pytest.approx(2 * Z * estimate.se)
    assert math.isnan(estimate_mean(torch.ones(1)).se)


def test_estimates_print_their_interval():
    assert repr(estimate_share(torch.ones(300))) == "1.000 (95 % interval 0.987 to 1.000, 300 data points)"
    text = repr(estimate_share(torch.arange(100) < 90, None, [0.02]))
    assert text.endswith("100 data points; 0.880 to 0.920 with classifier errors)")
    assert isinstance(estimate_mean(torch.ones(3)), Estimate)


def test_paired_differences_cancel_what_data_points_share():
    torch.manual_seed(0)
    difficulty = 10 * torch.randn(1000)
    first = [difficulty + 0.1 + 0.01 * torch.randn(1000) for _ in range(3)]
    second = [difficulty + 0.01 * torch.randn(1000) for _ in range(3)]
    difference = paired_difference(first, second)
    assert abs(difference.value - 0.1) < 4 * difference.se and difference.seeds == 3
    # sqrt(2 / 3) of the noise of one value, over 1,000 data points
    assert difference.se == pytest.approx(0.01 * math.sqrt(2 / 3) / math.sqrt(1000), rel=0.1)
    assert difference.seed_std < 0.01
    assert paired_difference(first[:1], second[:1]).seed_std is None


def test_the_spread_of_seeds_is_apart_from_the_error_of_the_test_data():
    base = torch.arange(4.0)
    difference = paired_difference([base + 1, base + 3], [base, base])
    assert difference.value == 2.0 and difference.se == 0.0
    assert difference.seed_std == pytest.approx(math.sqrt(2))


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match=r"same seeds and data points, got 1 and 1 seeds with \[2, 3\] data points"):
        paired_difference([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(ValueError, match="got 2 and 1 seeds"):
        paired_difference([torch.ones(2)] * 2, [torch.ones(2)])
    with pytest.raises(ValueError, match="no data point has a value"):
        paired_difference([torch.tensor([math.nan])], [torch.ones(1)])
