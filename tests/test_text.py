"""The autoregressive likelihood of texts: a distribution over sequences that works in every program."""

import itertools

import pyro
import pytest
import torch
from torch import nn

from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import cross_generate, frozen, joint_samples, log_likelihood
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.ppl_models import (
    MLP,
    AutoregressiveTextLikelihood,
    MultimodalModel,
    NormalLikelihood,
    OneHotMLP,
    point_estimate,
)

CLASSES, LENGTH, DIM = 3, 3, 2
SEQUENCES = torch.tensor(list(itertools.product(range(CLASSES), repeat=LENGTH)))


def text(**options):
    """A likelihood whose words differ clearly in probability."""
    module = AutoregressiveTextLikelihood(MLP(DIM, 8, (8,)), CLASSES, LENGTH, 4, 6, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.8)
    return module


def programs():
    model = MultimodalModel(DIM, {"signal": NormalLikelihood(MLP(DIM, 4, (8,))), "text": text()})
    encoders = {
        "signal": NormalEncoder(MLP(4, 8, (8,)), DIM),
        "text": NormalEncoder(OneHotMLP(CLASSES, 8, (8,), LENGTH), DIM),
    }
    return model, ProductOfExperts(DIM, encoders)


def batch(rows=5):
    return {"signal": torch.randn(rows, 4), "text": torch.randint(CLASSES, (rows, LENGTH))}


def test_probabilities_sum_to_one_over_all_sequences_and_depend_on_earlier_tokens():
    likelihood = text()(torch.randn(4, DIM))
    log_probs = likelihood.log_prob(SEQUENCES.unsqueeze(1))  # (sequences, batch)
    torch.testing.assert_close(log_probs.logsumexp(0), torch.zeros(4), atol=1e-5, rtol=0)
    joint = log_probs.exp().reshape(*[CLASSES] * LENGTH, 4)
    product = joint.sum((1, 2)).unsqueeze(1) * joint.sum((0, 2))
    assert (joint.sum(2) - product).abs().max() > 0.01


def test_samples_fit_the_density():
    likelihood = text()(torch.randn(2, DIM))
    number = 20_000
    samples = likelihood.sample((number,))
    codes = (samples * torch.tensor([9, 3, 1])).sum(-1)
    shares = torch.stack([(codes == code).float().mean(0) for code in range(len(SEQUENCES))])
    expected = likelihood.log_prob(SEQUENCES.unsqueeze(1)).exp()
    assert ((shares - expected).abs() < 4.5 * (expected * (1 - expected) / number).sqrt() + 1e-4).all()


def test_the_temperature_sharpens_samples_but_does_not_change_the_density():
    cold, plain = text(temperature=0.01), text()
    cold.load_state_dict(plain.state_dict())
    z = torch.randn(6, DIM)
    assert torch.equal(cold(z).sample((3,)), plain(z).mode.expand(3, -1, -1))
    assert torch.equal(cold(z).log_prob(SEQUENCES[:6]), plain(z).log_prob(SEQUENCES[:6]))
    assert not torch.equal(plain(z).sample((3,)), plain(z).mode.expand(3, -1, -1))


@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_shapes_with_leading_dimensions(lead):
    likelihood = text()(torch.randn(*lead, 5, DIM))
    assert likelihood.batch_shape == (*lead, 5) and likelihood.event_shape == (LENGTH,)
    assert likelihood.sample().shape == (*lead, 5, LENGTH) and likelihood.sample((4,)).shape == (4, *lead, 5, LENGTH)
    assert likelihood.log_prob(SEQUENCES[:5]).shape == (*lead, 5)
    wide = likelihood.expand((3, *likelihood.batch_shape))
    assert wide.sample().shape == (3, *lead, 5, LENGTH)
    torch.testing.assert_close(wide.log_prob(SEQUENCES[:5])[1], likelihood.log_prob(SEQUENCES[:5]))


def test_the_mode_is_greedy_and_is_the_point_estimate():
    likelihood = text()(torch.randn(4, DIM))
    mode = point_estimate(likelihood)
    logits = likelihood.logits(mode)
    assert torch.equal(logits.argmax(-1), mode)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(4, LENGTH))


def test_a_position_does_not_depend_on_later_tokens():
    likelihood = text()(torch.randn(1, DIM))
    first, second = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 2]])
    left, right = likelihood.logits(first), likelihood.logits(second)
    assert torch.equal(left[:, :2], right[:, :2]) and not torch.allclose(left[:, 2], right[:, 2])


def test_missing_tokens_are_left_out():
    likelihood = text(missing_entries=True)
    likelihood.check(torch.tensor([[0, -1, 2]]), "word")
    distribution = likelihood(torch.randn(1, DIM))
    whole, rows = torch.tensor([0, 1, 2]), torch.tensor([[0, -1, -1], [-1, -1, -1], [0, 1, -1], [0, -1, 2]])
    log_probs, factors = distribution.log_prob(rows.unsqueeze(1)).squeeze(1), distribution.logits(whole[None])[0]
    known = factors[torch.arange(3), whole]
    torch.testing.assert_close(log_probs[:3], torch.stack([known[0], 0 * known[0], known[0] + known[1]]))
    assert log_probs[3].isfinite() and not torch.allclose(log_probs[3], known[0] + known[2])
    log_probs.sum().backward()
    assert all(p.grad.isfinite().all() for p in likelihood.parameters() if p.grad is not None)
    with pytest.raises(ValueError, match="class ids 0 to 2, got -1 to 2"):
        text().check(torch.tensor([[0, -1, 2]]), "word")


def test_token_dropout_is_for_training_only():
    likelihood = text(token_dropout=0.9)
    z, tokens = torch.randn(50, DIM), SEQUENCES[-1:].expand(50, -1)
    assert not torch.equal(likelihood(z).log_prob(tokens), likelihood(z).log_prob(tokens))
    likelihood.eval()
    assert torch.equal(likelihood(z).log_prob(tokens), likelihood(z).log_prob(tokens))


def test_gradients_are_finite_and_a_frozen_decoder_passes_them_to_the_guide_only():
    model, guide = programs()
    x = batch()
    loss = elbo(MODEL, GUIDE)
    loss.loss_and_grads(model, guide, x)
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.likelihoods["text"].parameters())
    model.zero_grad(set_to_none=True)
    guide.zero_grad(set_to_none=True)
    loss.loss_and_grads(frozen(model), guide, {"text": x["text"]})
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad.any() for p in guide.encoders["text"].parameters())


def test_the_loss_does_not_depend_on_a_missing_text():
    model, guide = programs()
    x, observed = batch(), {"text": torch.tensor([True, False, True, False, True])}
    loss, values = elbo(MODEL, GUIDE), []
    for token in (0, 2):
        pyro.set_rng_seed(3)
        x["text"] = torch.where(observed["text"].unsqueeze(-1), x["text"], token)
        values.append(loss.loss(model, guide, x, observed))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_prediction_and_likelihood_estimates_accept_texts():
    model, guide = programs()
    x = batch()
    for output in ("mean", "sample"):
        generated = cross_generate(model, guide, {"signal": x["signal"]}, ["text"], 3, output=output)["text"]
        assert generated.shape == (3, 5, LENGTH) and generated.dtype == torch.int64
    assert joint_samples(model, 4)["text"].shape == (4, LENGTH)
    assert torch.isfinite(log_likelihood(model, guide, x, num_samples=20).values).all()


def test_invalid_values_and_settings_are_named():
    likelihood = text()
    with pytest.raises(TypeError, match="int64 class ids, got torch.float32"):
        likelihood.check(torch.zeros(2, LENGTH), "word")
    with pytest.raises(ValueError, match=r"shape \(batch, 3\), got \(2, 4\)"):
        likelihood.check(torch.zeros(2, 4).long(), "word")
    with pytest.raises(ValueError, match="class ids 0 to 2, got 0 to 3"):
        likelihood.check(torch.tensor([[0, 1, 3]]), "word")
    with pytest.raises(ValueError, match="token_dropout must lie"):
        text(token_dropout=1.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        text(temperature=0.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        AutoregressiveTextLikelihood(nn.Linear(2, 3), 0, 3)
    with pytest.raises(TypeError, match="out_features"):
        AutoregressiveTextLikelihood(nn.ReLU(), 2, 3)
