"""Cross-generation, joint samples, reconstructions and embeddings against the linear-Gaussian closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import repeated
from torch import nn

from multipyro.guides import Guide, MixtureOfProducts, NormalEncoder, ProductOfExperts
from multipyro.inference import cross_generate, embed, joint_samples, reconstruct
from multipyro.inference.evaluation import _memory, decode
from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
from multipyro.testing import DTYPE, FixedGuide, LinearGaussian


class ShiftedPrior(nn.Module):
    """`N(3, 0.5^2)`: no guide of the tests comes near it."""

    def forward(self):
        return dist.Normal(torch.full((2,), 3.0), 0.5).to_event(1)


def small(dropout=0.0):
    """A model of an image, a label and a word, and a product guide."""
    decoder = nn.Sequential(MLP(2, 8, (16,), activate_output=True), nn.Dropout(dropout), MLP(8, (1, 3, 3), ()))
    label, word = CategoricalLikelihood(MLP(2, 4, (16,))), CategoricalLikelihood(MLP(2, (5, 3), (16,)))
    model = MultimodalModel(2, {"image": NormalLikelihood(decoder), "label": label, "word": word})
    guide = ProductOfExperts(2, {"image": NormalEncoder(MLP((1, 3, 3), 8, (16,)), 2)})
    return model, guide


def exact(problem, x, given, target):
    """Mean `(rows, size)` of `p(x_target | x_given)`, and its covariance from the latents and from the noise."""
    posterior = problem.posterior(x, given)
    loading = problem.loadings[target]
    noise = problem.scales[target] ** 2 * torch.eye(len(loading), dtype=DTYPE)
    mean = posterior.mean @ loading.T + problem.offsets[target]
    return mean, loading @ posterior.covariance_matrix[0] @ loading.T, noise


def assert_moments(samples, mean, covariance):
    """Samples `(number, rows, size)` have this mean per data point and this covariance, to 4.5 standard errors."""
    number = len(samples)
    error = (covariance.diagonal() / number).sqrt()
    assert ((samples.mean(0) - mean).abs() < 4.5 * error).all()
    centered = (samples - mean).flatten(0, 1)
    found = centered.T @ centered / len(centered)
    spread = (covariance**2 + torch.outer(covariance.diagonal(), covariance.diagonal())).sqrt()
    assert ((found - covariance).abs() < 4.5 * spread / len(centered) ** 0.5).all()


@pytest.mark.parametrize("given", [("image",), ("label", "word"), ("image", "label")])
@pytest.mark.parametrize("limit", [8_000_000, 400])
def test_samples_have_the_moments_of_the_exact_conditional(given, limit, monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", limit)
    problem = LinearGaussian(3)
    x = problem.sample(4)
    evidence = {name: x[name] for name in given}
    number = 3000 if limit > 1000 else 800
    samples = cross_generate(problem.model(), problem.product_guide(), evidence, ["word", "image"], number)
    for target in ("word", "image"):
        mean, explained, noise = exact(problem, x, given, target)
        assert samples[target].shape == (number, 4, len(noise))
        assert_moments(samples[target], mean, explained + noise)


def test_means_leave_the_noise_of_the_likelihood_out():
    problem = LinearGaussian(2)
    x = problem.sample(3)
    given = {"image": x["image"]}
    samples = cross_generate(problem.model(), problem.product_guide(), given, ["label"], 3000, output="mean")["label"]
    mean, explained, _ = exact(problem, x, ["image"], "label")
    assert_moments(samples, mean, explained)


def test_a_mixture_guide_predicts_from_the_whole_mixture():
    problem = LinearGaussian(2, latent_dim=1)
    x = {name: values + 4.0 * (name == "image") for name, values in problem.sample(2).items()}
    guide = problem.mixture_guide()
    samples = cross_generate(problem.model(), guide, x, ["label"], 4000, output="mean")["label"]
    mixture = guide.posterior(x)
    loading = problem.loadings["label"]
    mean = mixture.mean @ loading.T + problem.offsets["label"]
    error = (mixture.variance @ (loading.T**2) / 4000).sqrt()
    assert ((samples.mean(0) - mean).abs() < 4.5 * error).all()
    assert torch.allclose(embed(guide, x), mixture.mean)


def test_rows_without_evidence_come_from_the_models_prior():
    model, guide = small()
    model.prior = ShiftedPrior()
    x = {"image": torch.randn(3, 1, 3, 3)}
    x["image"][1] = float("nan")
    observed = {"image": torch.tensor([True, False, True])}
    torch.manual_seed(1)
    with torch.no_grad():
        expected = model.likelihoods["image"](model.prior().sample((4000,))).mean
    for found in (
        cross_generate(model, guide, x, ["image"], 2000, observed, "mean")["image"],
        reconstruct(model, guide, x, 2000, observed)["image"],
    ):
        error = ((expected.var(0) + found[:, 1].var(0)) / 2000).sqrt()
        assert ((found[:, 1].mean(0) - expected.mean(0)).abs() < 4.5 * error).all()
        assert (found[:, 0].mean(0) - expected.mean(0)).abs().max() > 10 * error.max()
    labels = cross_generate(model, guide, x, ["label"], 10, observed)["label"]
    assert labels.shape == (10, 3) and labels.dtype == torch.int64


def test_a_data_point_with_the_target_alone_is_reconstructed_from_it():
    problem = LinearGaussian(2)
    x = problem.sample(2)
    observed = {"image": torch.tensor([True, False]), "label": torch.tensor([True, True])}
    x["image"][1] = float("nan")
    samples = cross_generate(problem.model(), problem.product_guide(), x, ["label"], 3000, observed, "mean")["label"]
    for row, given in enumerate([("image", "label"), ("label",)]):
        only = {name: x[name][row : row + 1] for name in given}
        mean, explained, _ = exact(problem, only, given, "label")
        assert_moments(samples[:, row : row + 1], mean, explained)


def test_joint_samples_have_the_moments_of_the_model(monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 1000)
    problem = LinearGaussian(2)
    samples = joint_samples(problem.model(), 3001)
    together = torch.cat([samples[name] for name in problem.modalities], -1)
    loading = torch.cat([problem.loadings[name] for name in problem.modalities])
    mean = torch.cat([problem.offsets[name] for name in problem.modalities])
    noise = torch.cat([torch.full((len(problem.offsets[n]),), problem.scales[n] ** 2) for n in problem.modalities])
    assert_moments(together[:, None], mean, loading @ loading.T + noise.diag())


def test_memory_is_bounded_by_hidden_layers_too(monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 1600)
    model, guide = small()
    largest = []
    for module in [*model.modules(), *guide.modules()]:
        module.register_forward_hook(
            lambda _, __, out: largest.append(out.numel()) if isinstance(out, torch.Tensor) else None
        )
    x = {"image": torch.randn(150, 1, 3, 3)}
    # one label has 4 logits, but the hidden layer 16 features: 100 latents at once
    assert cross_generate(model, guide, x, ["label"], 7)["label"].shape == (7, 150)
    assert joint_samples(model, 250)["image"].shape == (250, 1, 3, 3)
    assert embed(guide, x).shape == (150, 2)
    assert max(largest) <= 1600


def test_one_seed_gives_one_answer_and_modules_stay_as_they_were():
    model, guide = small(dropout=0.5)
    model.train()
    guide.encoders.eval()
    modes = [module.training for module in [*model.modules(), *guide.modules()]]
    x = {"image": torch.randn(4, 1, 3, 3)}
    torch.manual_seed(3)
    first = cross_generate(model, guide, x, ["image", "label"], 3)
    torch.manual_seed(3)
    second = cross_generate(model, guide, x, ["image", "label"], 3)
    assert all(torch.equal(first[name], second[name]) and not first[name].requires_grad for name in first)
    assert [module.training for module in [*model.modules(), *guide.modules()]] == modes
    # without dropout, equal latents decode to equal means
    fixed = FixedGuideAtZero()
    means = cross_generate(model, fixed, x, ["image"], 5, output="mean")["image"]
    assert torch.allclose(means, means[:1].expand_as(means), atol=1e-4)


class FixedGuideAtZero(Guide):
    """A point at the origin, whatever it sees."""

    def __init__(self):
        super().__init__(2, modalities=("image",))

    def posterior(self, x, observed=None):
        return dist.Normal(torch.zeros(len(x["image"]), 2), 1e-6).to_event(1)


def test_plain_functions_of_pyro_are_programs():
    def model(x, observed=None):
        values = x.get("a", x.get("b"))
        with pyro.plate("data", 5 if values is None else len(values)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            for name, slope in (("a", 1.0), ("b", -2.0)):
                if name in x:
                    pyro.sample(name, dist.Normal(slope * z[..., 0], 0.5), obs=x[name])

    def guide(x, observed=None):
        with pyro.plate("data", len(x["a"])):
            pyro.sample("z", dist.Normal(0.8 * x["a"][:, None], 0.2**0.5).to_event(1))

    x = {"a": torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])}
    samples = cross_generate(model, guide, x, ["b"], 4000)["b"]
    assert samples.shape == (4000, 5)
    assert ((samples.mean(0) + 1.6 * x["a"]).abs() < 4.5 * (1.05 / 4000) ** 0.5).all()
    assert torch.allclose(embed(guide, x), 0.8 * x["a"][:, None])
    with pytest.raises(ValueError, match="name the target"):
        joint_samples(model, 3)


def test_embeddings_are_means_of_the_conditional():
    problem = LinearGaussian(3)
    x = problem.sample(6)
    guide = problem.product_guide()
    for subset in problem.subsets():
        assert torch.allclose(embed(guide, x, subset), problem.posterior(x, subset).mean)
    assert torch.allclose(embed(guide, {"word": x["word"]}), embed(guide, x, "word"))
    mopoe = MixtureOfProducts(3, guide.encoders, prior_expert="all").double()
    assert torch.allclose(embed(mopoe, x), problem.posterior(x).mean)
    samples = embed(guide, repeated(x, 3000), output="sample")
    assert_moments(samples[:, None], problem.posterior(x).mean[0], problem.posterior(x).covariance_matrix[0])


def test_embeddings_of_partly_observed_rows():
    problem = LinearGaussian(2)
    x = problem.sample(3)
    observed = {"image": torch.tensor([True, False, False]), "label": torch.tensor([True, True, False])}
    missing = {name: torch.where(observed[name][:, None], values, torch.nan) for name, values in x.items()}
    found = embed(problem.product_guide(), missing, observed=observed)
    assert torch.allclose(found[0], problem.posterior(x, ["image", "label"]).mean[0])
    assert torch.allclose(found[1], problem.posterior(x, ["label"]).mean[1])
    assert torch.equal(found[2], torch.zeros(3, dtype=DTYPE))


def test_a_guide_of_several_sites():
    problem = LinearGaussian(1, latent_dim=2)
    x = problem.sample(4)

    def normal(x):
        return dist.Normal(torch.ones(len(x["image"]), 2, dtype=DTYPE), 1.0).to_event(1)

    both = FixedGuide(problem, lambda x, observed: {"z": normal(x), "z_image": normal(x)})
    assert torch.equal(embed(both, x), torch.ones(4, 2, dtype=DTYPE))
    other = FixedGuide(problem, lambda x, observed: {"z_image": normal(x)})
    with pytest.raises(ValueError, match=r"this guide only has \['z_image'\]"):
        embed(other, x)


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        ({"image": None}, {}, ValueError, "use joint_samples"),
        ({"sound": torch.zeros(4, 2)}, {}, ValueError, r"unknown modality \['sound'\]"),
        ({}, {"target": ["sound"]}, ValueError, r"unknown modality \['sound'\]"),
        ({}, {"target": []}, ValueError, "target is empty"),
        ({"image": torch.zeros(4, 3, 3)}, {}, ValueError, r"must have shape \(batch, 1, 3, 3\)"),
        ({"image": torch.zeros(4, 1, 3, 3).long()}, {}, TypeError, "floating point"),
        ({"image": torch.full((4, 1, 3, 3), float("nan"))}, {}, ValueError, "NaN"),
        ({"image": torch.zeros(4, 1, 3, 3).numpy()}, {}, TypeError, "must be a tensor"),
        ({"image": torch.zeros(0, 1, 3, 3)}, {}, ValueError, "no data points"),
        ({"image": torch.zeros(4, 1, 3, 3), "label": torch.tensor([0, 1, 2, 4])}, {}, ValueError, "class ids 0 to 3"),
        ({"image": torch.zeros(4, 1, 3, 3), "label": torch.zeros(4)}, {}, TypeError, "int64"),
        ({"image": torch.zeros(4, 1, 3, 3), "label": torch.zeros(3).long()}, {}, ValueError, "same number of rows"),
        ({}, {"num_samples": 0}, ValueError, "at least 1"),
        ({}, {"output": "median"}, ValueError, "output must be one of"),
        ({}, {"observed": {"image": torch.ones(4)}}, ValueError, "bool"),
    ],
)
def test_bad_input(change, kwargs, error, message):
    model, guide = small()
    model.likelihoods["image"].network.out_shape = (1, 3, 3)
    x = {name: value for name, value in {"image": torch.zeros(4, 1, 3, 3), **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        cross_generate(model, guide, x, **{"target": ["word"], **kwargs})


@pytest.mark.parametrize("subset", [[], ["word"], "word"])
def test_bad_subsets_of_an_embedding(subset):
    _, guide = small()
    with pytest.raises(ValueError, match=r"given must be some of \['image'\]"):
        embed(guide, {"image": torch.zeros(4, 1, 3, 3)}, subset)


def test_latents_of_ones_own_are_decoded(monkeypatch):
    monkeypatch.setattr(_memory, "MAX_ELEMENTS", 200)
    problem = LinearGaussian(2)
    z = torch.randn(100, 3, dtype=DTYPE)
    values = decode(problem.model(), {"z": z}, ["image"])
    assert values.keys() == {"image"}
    torch.testing.assert_close(values["image"], z @ problem.loadings["image"].T + problem.offsets["image"])
    # a private latent that is not given takes the mean of its prior
    model, _ = small()
    likelihoods = {"image": NormalLikelihood(MLP(4, 3, (8,)))}
    private = MultimodalModel(2, likelihoods, private={"image": 2})
    code = torch.randn(5, 2)
    expected = likelihoods["image"](torch.cat([code, torch.zeros(5, 2)], -1)).mean
    torch.testing.assert_close(decode(private, {"z": code})["image"], expected.detach())
    samples = [decode(model, {"z": code}, output="sample")["image"] for _ in range(2)]
    assert not torch.equal(*samples)
    with pytest.raises(ValueError, match="unknown modality"):
        decode(model, {"z": code}, ["sound"])
