"""Bad input: a clear error that names what was seen and what was expected, before anything is lost."""

import re
from dataclasses import replace
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from toy import toy_data, toy_networks

from multipyro.guides import (
    Guide,
    HamiltonianSampler,
    JointEncoder,
    JointGuide,
    LaplaceEncoder,
    MixtureOfExperts,
    MixtureOfProducts,
    NormalEncoder,
    ProductOfExperts,
    product_of_experts,
)
from multipyro.inference import METHODS, build, cross_generate, embed, frozen, log_likelihood, restrict
from multipyro.inference.evaluation import ImportanceSampling
from multipyro.inference.objectives import (
    GUIDE,
    MODEL,
    SINGLES,
    SUBSET,
    LinearWarmup,
    StratifiedELBO,
    elbo,
    listed_subsets,
    random_subsets,
    subset_elbo,
    sum_over,
)
from multipyro.inference.recipes import Stage, method
from multipyro.ppl_models import (
    MLP,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    MultimodalModel,
    NormalLikelihood,
    OneHotMLP,
)

ROWS = 4


def made():
    likelihoods = {
        "image": BernoulliLikelihood(MLP(2, (1, 3, 3), (8,))),
        "label": CategoricalLikelihood(MLP(2, 5, (8,))),
        "gray": ContinuousBernoulliLikelihood(MLP(2, 3, (8,))),
        "real": NormalLikelihood(MLP(2, 3, (8,))),
    }
    encoders = {
        "image": NormalEncoder(MLP((1, 3, 3), 6, (8,)), 2),
        "label": NormalEncoder(OneHotMLP(5, 6, (8,)), 2),
        "gray": NormalEncoder(MLP(3, 6, (8,)), 2),
        "real": NormalEncoder(MLP(3, 6, (8,)), 2),
    }
    return MultimodalModel(2, likelihoods), ProductOfExperts(2, encoders)


def batch(**changed):
    x = {
        "image": torch.bernoulli(torch.full((ROWS, 1, 3, 3), 0.5)),
        "label": torch.randint(5, (ROWS,)),
        "gray": torch.rand(ROWS, 3),
        "real": torch.randn(ROWS, 3),
    }
    return {**x, **changed}


def with_value(name, value, row=1):
    values = batch()[name]
    values[row] = value
    return {name: values}


BAD_VALUES = {
    "wrong shape": ({"image": torch.zeros(ROWS, 3, 3)}, ValueError, r"'image'.*\(batch, 1, 3, 3\).*\(4, 3, 3\)"),
    "label with a column": ({"label": torch.zeros(ROWS, 1).long()}, ValueError, r"'label'.*\(4, 1\)"),
    "wrong dtype of an image": ({"image": torch.zeros(ROWS, 1, 3, 3).long()}, TypeError, "'image'.*floating.*int64"),
    "wrong dtype of a label": ({"label": torch.zeros(ROWS)}, TypeError, "'label'.*int64.*float32"),
    "int32 label": ({"label": torch.zeros(ROWS, dtype=torch.int32)}, TypeError, "'label'.*int64.*int32"),
    "label out of range": (with_value("label", 5), ValueError, "'label'.*0 to 4.*5"),
    "negative label": (with_value("label", -1), ValueError, "'label'.*0 to 4.*-1"),
    "NaN pixel": (with_value("image", float("nan")), ValueError, "'image'.*NaN.*observed"),
    "infinite value": (with_value("real", float("inf")), ValueError, "'real'.*infinite"),
    "NaN value": (with_value("real", float("nan")), ValueError, "'real'.*NaN"),
    "beyond one": (with_value("gray", 1.5), ValueError, r"'gray'.*\[0, 1\].*1\.5"),
    "pixels up to 255": (with_value("image", 255.0), ValueError, r"'image'.*\[0, 1\].*255"),
    "gray pixels": (
        with_value("image", 0.3),
        ValueError,
        "'image'.*gray.*ContinuousBernoulli.*Normal.*soft_targets=True",
    ),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_likelihoods_check_values(case):
    changed, error, message = BAD_VALUES[case]
    (name,) = changed
    with pytest.raises(error, match=message):
        made()[0].likelihoods[name].check(changed[name], name)


@pytest.mark.parametrize("case", BAD_VALUES)
def test_the_model_checks_values_under_pyros_validation(case):
    changed, error, _ = BAD_VALUES[case]
    model, _ = made()
    with pytest.raises(error, match=f"'{next(iter(changed))}'"):
        model(batch(**changed))


@pytest.mark.parametrize("case", BAD_VALUES)
def test_prediction_and_likelihood_check_values_without_validation(case):
    changed, error, message = BAD_VALUES[case]
    model, guide = made()
    with pyro.validation_enabled(False):
        with pytest.raises(error, match=message):
            cross_generate(model, guide, changed, ["real" if "real" not in changed else "label"])
        with pytest.raises(error, match=message):
            log_likelihood(model, guide, changed, num_samples=2)


def test_missing_rows_are_not_checked():
    model, guide = made()
    rows = torch.tensor([True, False, True, True])
    for changed in (with_value("image", float("nan")), with_value("label", 99), with_value("gray", 7.0)):
        (name,) = changed
        model(batch(**changed), {name: rows})
        guide(batch(**changed), {name: rows})
        cross_generate(model, guide, changed, ["real"], observed={name: rows})


def test_values_must_be_tensors():
    with pytest.raises(TypeError, match="'label'.*list"):
        made()[0].likelihoods["label"].check([1, 2], "label")


def test_a_bernoulli_accepts_gray_values_if_soft_targets_are_requested():
    likelihood = BernoulliLikelihood(MLP(2, 3, (8,)), soft_targets=True)
    values = torch.rand(ROWS, 3)
    likelihood.check(values, "image")
    model = MultimodalModel(2, {"image": likelihood})
    trace = poutine.trace(model).get_trace({"image": values})
    trace.compute_log_prob()
    logits = likelihood(trace.nodes["z"]["value"]).base_dist.logits
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, values, reduction="none").sum(-1)
    torch.testing.assert_close(trace.nodes["image"]["log_prob"], expected)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        likelihood.check(values + 1, "image")


def test_unknown_modalities():
    model, guide = made()
    x = batch(sound=torch.zeros(ROWS, 3))
    for program in (model, guide):
        with pytest.raises(ValueError, match=r"\['sound'\].*'image', 'label', 'gray', 'real'"):
            program(x)
    with pytest.raises(ValueError, match="sound.*image"):
        cross_generate(model, guide, batch(), ["sound"])
    with pytest.raises(ValueError, match="sound.*image"):
        cross_generate(model, guide, {"sound": torch.zeros(ROWS, 3)}, ["image"])
    with pytest.raises(ValueError, match="sound"):
        embed(guide, batch(), given=["sound"])
    with pytest.raises(ValueError, match="sound"):
        log_likelihood(model, guide, batch(), target=["sound"], num_samples=2)


def test_x_must_be_a_dict():
    for program in made():
        with pytest.raises(TypeError, match="dict.*Tensor"):
            program(torch.zeros(ROWS, 3))


def test_masks_must_be_boolean_and_one_dimensional():
    for program in made():
        for mask, message in (
            (torch.ones(ROWS), "float32"),
            (torch.ones(ROWS, 1, dtype=torch.bool), r"\(4, 1\)"),
            (torch.ones(ROWS + 1, dtype=torch.bool), "5 rows.*4"),
        ):
            with pytest.raises(ValueError, match=message):
                program(batch(), {"image": mask})


def test_modalities_of_different_length():
    for program in made():
        with pytest.raises(ValueError, match="same number of rows.*3"):
            program(batch(label=torch.zeros(3).long()))


def test_an_empty_subset():
    model, guide = made()
    with pytest.raises(ValueError, match="contains no modality to condition on"):
        guide({})
    with pytest.raises(ValueError, match="num_rows"):
        model({})
    with pytest.raises(ValueError, match="joint_samples"):
        cross_generate(model, guide, {}, ["image"])
    with pytest.raises(ValueError, match="non-empty"):
        MixtureOfProducts(2, dict(guide.encoders.items()), mixture_subsets=[()])
    with pytest.raises(ValueError, match="empty"):
        MultimodalModel(2, {})
    with pytest.raises(ValueError, match="empty"):
        MixtureOfExperts(2, {})


@pytest.mark.parametrize("name", ("z", "z1", "z27", "z_image", "data"))
def test_a_modality_named_like_a_latent(name):
    with pytest.raises(ValueError, match=f"'{name}'.*latent"):
        MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 3)), name: NormalLikelihood(MLP(2, 3))})


def test_names_that_merely_begin_like_a_latent_are_accepted():
    MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3)) for name in ("zebra", "z1a", "database")})


def test_a_guide_names_the_subsets_it_answers():
    branches = {"image": MLP((1, 3, 3), 6, (8,)), "label": OneHotMLP(5, 6, (8,)), "real": MLP(3, 6, (8,))}
    encoders = {
        "image": NormalEncoder(MLP((1, 3, 3), 6, (8,)), 2),
        ("real", "label"): JointEncoder({"label": OneHotMLP(5, 6, (8,)), "real": MLP(3, 6, (8,))}, 2),
    }
    guide = JointGuide(2, branches, encoders=encoders)
    x = {name: values for name, values in batch().items() if name in branches}
    for program in (guide, lambda given: embed(guide, given), lambda given: restrict(guide, ["label"])(given)):
        with pytest.raises(ValueError, match=r"supports image, label\+real, image\+label\+real, got label"):
            program({"label": x["label"]})
    with pytest.raises(ValueError, match=r"row 2 contains label.*image, label\+real"):
        rows = torch.tensor([True, True, False, True])
        guide(x, {"image": rows, "real": rows})
    assert guide({"label": x["label"], "real": x["real"]})["z"].shape == (ROWS, 2)


def test_a_mixture_none_of_whose_subsets_is_given():
    _, guide = made()
    mixture = MixtureOfProducts(2, dict(guide.encoders.items()), mixture_subsets=[("image", "label"), ("real",)])
    with pytest.raises(ValueError, match=r"image\+label.*real.*gray"):
        mixture({"gray": torch.rand(ROWS, 3)})


def test_options_that_do_not_exist():
    _, guide = made()
    for make, message in (
        (lambda: StratifiedELBO(0), "num_particles.*0"),
        (lambda: StratifiedELBO(chunk_size=0), "chunk_size must be at least 1, got 0"),
        (lambda: StratifiedELBO(gradient="doubly"), "'reparam', 'stl' or 'dreg', got 'doubly'"),
        (lambda: StratifiedELBO(bound="loose"), "'stratified' or 'tight'.*'loose'"),
        (lambda: subset_elbo(-1), "-1"),
        (lambda: elbo(MODEL, GUIDE, kl="exact"), "'exact'"),
        (lambda: LinearWarmup(-1), "-1"),
        (lambda: LinearWarmup(3, unit="hour"), "'hour'"),
        (lambda: NormalEncoder(MLP(2, 3), 2, scale="square"), "'square'"),
        (lambda: MixtureOfProducts(2, dict(guide.encoders.items()), prior_expert="some"), "'some'"),
        (lambda: cross_generate(*made(), batch(), ["image"], output="mode"), "'mode'"),
        (lambda: cross_generate(*made(), batch(), ["image"], num_samples=0), "at least 1.*0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    for make, message in (
        (lambda: NormalEncoder(torch.nn.Identity(), 2), "out_features.*Linear|Identity"),
        (lambda: ImportanceSampling(scales=1.0), "scales must be a sequence of numbers, got 1.0"),
        (lambda: HamiltonianSampler(2.5), "must be integers, got 2.5 and 5"),
        (lambda: random_subsets(1.5), "must be an integer, got 1.5"),
    ):
        with pytest.raises(TypeError, match=message):
            make()


def test_the_name_of_a_modality_is_a_subset():
    assert listed_subsets(["image", ("image", "label")]) == listed_subsets([("image",), ("image", "label")])
    assert listed_subsets([("image",)], requires="label") == listed_subsets([("image",)], requires=("label",))


def test_programs_whose_latents_do_not_fit():
    model, guide = made()

    def other(x, observed=None):
        with pyro.plate("data", ROWS, dim=-1):
            pyro.sample("y", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))

    for loss in (elbo(MODEL, GUIDE), StratifiedELBO(2)):
        with pytest.raises(ValueError, match=r"\['z'\].*\['y'\]"):
            loss.loss(model, other, batch())


def test_masks_of_unknown_modalities_and_masks_that_are_none():
    m, g = made()
    rows = torch.ones(ROWS, dtype=torch.bool)
    for program in (m, g):
        with pytest.raises(ValueError, match="observed names unknown modality.*'imge'.*has .'image', 'label'"):
            program(batch(), {"imge": rows})
        with pytest.raises(TypeError, match="observed.'image'. must be a bool tensor.*got list"):
            program(batch(), {"image": [True] * ROWS})
        with pytest.raises(ValueError, match="observed.'label'. has 2 rows but x.'image'. has 4"):
            program({"image": batch()["image"]}, {"label": rows[:2]})


def test_values_that_are_no_tensors_and_of_another_floating_type():
    m, g = made()
    with pytest.raises(TypeError, match="modality 'real' must be a tensor, got list"):
        g(batch(real=[1.0]))
    for program in (m, g):
        with pytest.raises(ValueError, match="modality 'real' must have shape .batch, .event., got a tensor without"):
            program(batch(real=torch.tensor(1.0)))
    with pytest.raises(ValueError, match="modality 'real' is torch.float64, but this guide is torch.float32"):
        g(batch(real=torch.zeros(ROWS, 3, dtype=torch.float64)))


def test_class_ids_outside_the_range_of_an_encoder_are_named():
    _, g = made()
    for label, seen in ((5, "0 to 5"), (-2, "-2 to 0")):
        with pytest.raises(ValueError, match=f"class ids must be from 0 to 4, or -1 for a missing entry, got {seen}"):
            g({"label": torch.tensor([0, label, 0, 0])})


def test_an_embedding_of_nan_or_of_no_rows():
    _, g = made()
    x = {"real": torch.full((ROWS, 3), float("nan"))}
    with pytest.raises(ValueError, match=r"modality \['real'\] has NaN in observed values"):
        embed(g, x)
    assert embed(g, x, observed={"real": torch.zeros(ROWS, dtype=torch.bool)}).isfinite().all()
    for call in (lambda: embed(g, {"real": torch.zeros(0, 3)}), lambda: g({"real": torch.zeros(0, 3)})):
        with pytest.raises(ValueError, match="x contains no data points"):
            call()


@pytest.mark.parametrize("name", ("values", "type", "a.b", ""))
def test_modalities_that_cannot_name_a_module(name):
    with pytest.raises(ValueError, match="cannot be the name of a submodule"):
        MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3))})
    with pytest.raises(ValueError, match="cannot be the name of a submodule"):
        ProductOfExperts(2, {name: NormalEncoder(MLP(3, 6), 2)})


@pytest.mark.parametrize(
    "name", ("num_samples", "num_particles", "num_particles_vectorized", "data", "z", "z2", "z_image")
)
def test_modalities_with_the_name_of_a_latent_or_a_plate(name):
    with pytest.raises(ValueError, match="has the name of a latent or of a plate"):
        MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3))})


def test_powers_of_a_product():
    expert = dist.Normal(torch.ones(2, 3), 1.0).to_event(1)
    experts = {"a": expert, "b": expert}
    for power in (-1.0, float("nan"), float("inf"), torch.ones(3)):
        with pytest.raises(ValueError, match="the power of 'a' must be"):
            product_of_experts(experts, powers={"a": power})
    power = torch.zeros(2, 3, requires_grad=True)
    product = product_of_experts(
        {"a": dist.Normal(torch.full((2, 3), 5.0), 1.0).to_event(1), "b": expert}, powers={"a": power}
    )
    assert torch.equal(product.mean, expert.mean)
    product.mean.sum().backward()
    assert power.grad.isfinite().all()


def test_a_mixture_of_products_refuses_what_none_of_its_subsets_lies_within():
    encoders = {name: NormalEncoder(MLP(3, 6), 2) for name in ("a", "b", "c")}
    g = MixtureOfProducts(2, encoders, mixture_subsets=[("a",), ("b", "c")])
    assert set(g.subsets) == {("a",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")}
    x = {name: torch.zeros(ROWS, 3) for name in encoders}
    with pytest.raises(ValueError, match="supports .*, got b$"):
        g({"b": x["b"]})
    rows = torch.tensor([True, False, True, True])
    with pytest.raises(ValueError, match="row 1 contains b, but none of the mixture's subsets a, b.c"):
        g(x, {"a": rows, "c": rows})
    with pytest.raises(ValueError, match="row 1 contains b, but none"):
        embed(g, x, observed={"a": rows, "c": rows})
    g(x, {"a": rows, "b": rows, "c": rows})
    assert MixtureOfProducts(2, encoders).subsets is None
    with pytest.raises(ValueError, match="mixture_subsets is empty"):
        MixtureOfProducts(2, encoders, mixture_subsets=[])


@pytest.mark.parametrize("method", ("telbo", "bridged", "mmvae+", "cvae", "cmma"))
def test_a_method_that_trains_parts_of_its_own_guide_takes_no_other(method):
    with pytest.raises(ValueError, match=re.escape(f"{method} takes no guide but its own")):
        build(method, toy_networks(), 2, guide=ProductOfExperts)
    build("jmvae-kl", toy_networks(), 2, guide=ProductOfExperts)


def test_an_objective_that_names_a_part_by_subset_takes_any_guide_that_has_it():
    parts = sum_over(SINGLES, elbo(frozen(MODEL) | SUBSET, frozen(GUIDE, train=[GUIDE.part("encoders", SUBSET)])))

    @method("by part", title="one encoder for each ELBO", paper="this test")
    def by_part(networks, latent_dim, weighting):
        return replace(METHODS["mvae"](networks, latent_dim, weighting), stages=(Stage(parts),))

    with mock.patch.dict(METHODS, {by_part.name: by_part}):
        recipe = build("by part", toy_networks(), 2, guide=MixtureOfExperts)
        assert recipe.stages[0].objective.loss(recipe.model, recipe.guide, toy_data().x) > 0

        class Joint(JointGuide):
            def __init__(self, latent_dim, encoders):
                super().__init__(latent_dim, {"signal": MLP(4, 8), "label": OneHotMLP(3, 8)})

        with pytest.raises(ValueError, match="refers to g.encoders.signal, which this Joint does not have"):
            build("by part", toy_networks(), 2, guide=Joint)


@pytest.mark.parametrize("name", ("bridged", "cmma", "cvae", "jmvae-gan", "jmvae-kl", "telbo", "vlvae"))
def test_a_method_of_several_modalities_refuses_a_single_one(name):
    with pytest.raises(ValueError, match=re.escape(f"{name} needs at least 2 modalities, got ['signal']")):
        build(name, toy_networks().select(["signal"]), 2)


@pytest.mark.parametrize(
    ("posterior", "error", "message"),
    (
        (
            lambda loc: dist.Normal(loc, 1.0),
            ValueError,
            r"must have event shape (2,), got () and batch shape (2, 2): make",
        ),
        (lambda loc: dist.Normal(loc[:, :1], 1.0).to_event(1), ValueError, "must have event shape (2,), got (1,)"),
        (lambda loc: (loc, loc), TypeError, "that of Mine has tuple for 'z'"),
        (lambda loc: {"z": dist.Normal(loc, 1.0).to_event(1), "w": loc}, TypeError, "that of Mine has Tensor for 'w'"),
    ),
)
def test_a_guide_whose_posterior_is_no_distribution_of_the_latent_is_refused(posterior, error, message):
    class Mine(Guide):
        def posterior(self, x, observed=None):
            return posterior(x["a"][:, :2])

    # as many data points as latents: plates alone would take the latents for data points
    with pytest.raises(error, match=re.escape(message)):
        Mine(2, modalities=["a"])({"a": torch.zeros(2, 3)})


def test_what_a_joint_guide_does_not_answer():
    branches = {"a": MLP(4, 8), "b": MLP(3, 8)}
    x = {"b": torch.zeros(ROWS, 3), "a": torch.zeros(ROWS, 4)}
    g = JointGuide(2, branches, encoders={"a": LaplaceEncoder(MLP(4, 8), 2)})
    assert g.posterior(x).batch_shape == (ROWS,)
    with pytest.raises(ValueError, match="supports .*, got b$"):
        g.posterior({"b": x["b"]})
    assert g(x, {"b": torch.tensor([True, False, True, True])})["z"].shape == (ROWS, 2)  # rows of two families
    with pytest.raises(ValueError, match="encoders must be of proper subsets"):
        JointGuide(2, branches, encoders={("b", "a"): JointEncoder(branches, 2)})
