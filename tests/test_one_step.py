"""What one step computes once, and for whom it must not share a result."""

import pytest
import torch
from small_programs import batch, programs, seeded

from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference import frozen
from multipyro.inference.objectives import (
    GUIDE,
    MODEL,
    PROPER_SUBSETS,
    SUBSET,
    StratifiedELBO,
    elbo,
    listed_subsets,
    subset_elbo,
    sum_over,
)
from multipyro.testing import LinearGaussian


def test_every_encoder_runs_once_a_step():
    problem = LinearGaussian(3)
    x, model = problem.sample(6), problem.model()
    observed = {"label": torch.tensor([True, False] * 3)}
    subsets = problem.subsets()
    losses = {
        "plain": elbo(MODEL, GUIDE),
        "particles": elbo(MODEL, GUIDE, num_particles=4),
        "subsets": subset_elbo(1),
        "jmvae-kl": elbo(MODEL, GUIDE) + sum_over(PROPER_SUBSETS, elbo(GUIDE | SUBSET, GUIDE)),
        "all subsets": sum_over(listed_subsets(subsets), elbo(MODEL, GUIDE | SUBSET)),
        "telbo": elbo(MODEL, GUIDE) + sum_over(listed_subsets(subsets), elbo(frozen(MODEL) | SUBSET, GUIDE | SUBSET)),
        "stratified": StratifiedELBO(5, "dreg"),
    }
    for make in (problem.product_guide, problem.mixture_guide):
        guide = make()
        for name, loss in losses.items():
            if name == "jmvae-kl" and make is problem.mixture_guide:
                continue
            for mask in (None, observed):
                for encoder in guide.encoders.values():
                    encoder.calls = 0
                loss.loss_and_grads(model, guide, x, mask)
                calls = {m: guide.encoders[m].calls for m in problem.modalities}
                assert set(calls.values()) == {1}, (name, calls)


def test_every_guide_is_traced_once_a_step():
    problem = LinearGaussian(2)
    x, model, guide = problem.sample(6), problem.model(), problem.product_guide(0.2)
    runs = []
    guide.register_forward_hook(lambda *_: runs.append(1))
    parts = elbo(MODEL | "image", GUIDE) + elbo(MODEL | "label", GUIDE, {"z": 0.0})
    whole = seeded(elbo(MODEL, GUIDE), model, guide, x).item()
    assert seeded(parts, model, guide, x).item() == pytest.approx(whole, rel=1e-10) and runs == [1, 1]


@pytest.mark.parametrize("frozen_first", (True, False))
def test_a_frozen_guide_and_the_same_guide_in_training_share_no_encoder_result(frozen_first):
    """Whoever comes first: the training one keeps its gradient, the frozen one gives it none."""
    model, guide = programs()
    x = batch()
    torch.manual_seed(0)
    elbo(MODEL, GUIDE).loss_and_grads(model, guide, x)
    expected = {name: p.grad.clone() for name, p in guide.named_parameters()}
    guide.zero_grad()
    torch.manual_seed(0)
    both = [elbo(MODEL, GUIDE), 0.0 * elbo(MODEL, frozen(GUIDE))]
    sum(both[::-1] if frozen_first else both).loss_and_grads(model, guide, x)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        if not frozen_first:  # with the same draw
            torch.testing.assert_close(parameter.grad, expected[name])
    guide.zero_grad()
    both = elbo(frozen(GUIDE), frozen(GUIDE)) + 0.0 * elbo(MODEL, GUIDE)
    both.loss_and_grads(model, guide, x)
    assert all(p.grad is None or (p.grad == 0).all() for p in guide.parameters())


def test_an_encoder_in_another_mode_gives_a_result_of_its_own():
    _, guide = programs(normalized=True)
    x = batch()
    with encoders_run_once():
        training, evaluating = guide.posterior(x), frozen(guide)(x)
        assert guide.posterior(x).mean.equal(training.mean)
        with torch.no_grad():
            assert not guide.posterior(x).mean.requires_grad
    assert not evaluating["z"].requires_grad
