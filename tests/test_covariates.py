"""Covariates: what conditions decoders and encoders, in the programs, the data, the runs and the commands."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from multipyro.data import Modality, MultimodalData, Splits, from_table, from_tensors, load_examples, load_toml
from multipyro.guides import NormalEncoder, ProductOfExperts
from multipyro.inference import (
    METHODS,
    build,
    cross_generate,
    embed,
    fit_recipe,
    joint_samples,
    load,
    log_likelihood,
    networks_for,
)
from multipyro.inference.cli.parser import main
from multipyro.inference.evaluation import decode
from multipyro.inference.handlers import restrict, with_covariates
from multipyro.inference.recipes import register
from multipyro.ppl_models import MLP, Covariates, MultimodalModel, NormalLikelihood, WithCovariates

NOISE, BATCHES = 0.5, 3
LOADINGS = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [1.0, 0.5], [-0.5, 1.0]])  # orthogonal: a diagonal guide is exact
SHIFTS = 2 * torch.randn(BATCHES, 4, generator=torch.Generator().manual_seed(3))
DESCRIPTIONS = {
    "site": Modality("site", (), "label", "categorical", 3),
    "age": Modality("age", (1,), "vector", "normal"),
}


def with_output(network, name):
    network.out_features = getattr(network, name)
    return network


def shifted_programs():
    """`x = W z + shift of the batch + noise`, and its exact posterior."""
    model = MultimodalModel(
        2, {"x": NormalLikelihood(nn.Linear(2 + BATCHES, 4), NOISE)}, covariates=Covariates({"batch": BATCHES})
    )
    decoder = model.likelihoods["x"].network
    encoder = NormalEncoder(
        WithCovariates(with_output(nn.Linear(4, 4), "out_features"), Covariates({"batch": BATCHES})), 2, "exp"
    )
    precision = torch.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2
    with torch.no_grad():
        decoder.weight.copy_(torch.cat([LOADINGS, SHIFTS.T], 1))
        decoder.bias.zero_()
        encoder.network.network.weight.copy_(torch.eye(4))
        encoder.network.network.bias.zero_()
        encoder.network.modulation.weight.copy_(torch.cat([torch.zeros(4, BATCHES), -SHIFTS.T]))
        encoder.heads.weight.copy_(torch.cat([precision.inverse() @ LOADINGS.T / NOISE**2, torch.zeros(2, 4)]))
        encoder.heads.bias.copy_(torch.cat([torch.zeros(2), -0.5 * precision.diagonal().log()]))
    return model, ProductOfExperts(2, {"x": encoder}, prior_expert=False)


def shifted_data(number=40):
    batch = torch.arange(number) % BATCHES
    values = torch.randn(number, 2) @ LOADINGS.T + SHIFTS[batch] + NOISE * torch.randn(number, 4)
    return {"x": values, "batch.covariate": batch}


def test_the_likelihood_of_a_shift_per_batch_is_the_closed_form():
    model, guide = shifted_programs()
    x = shifted_data()
    covariance = LOADINGS @ LOADINGS.T + NOISE**2 * torch.eye(4)
    exact = torch.distributions.MultivariateNormal(SHIFTS[x["batch.covariate"]], covariance).log_prob(x["x"])
    bound = -Trace_ELBO().loss(model, guide, x)  # without variance, as the guide is exact
    torch.testing.assert_close(torch.tensor(bound), exact.sum(), atol=1e-2, rtol=0)
    estimate = log_likelihood(model, guide, x, ["x"], num_samples=2_000)
    torch.testing.assert_close(estimate.values.float(), exact, atol=0.05, rtol=0)
    swapped = {**x, "batch.covariate": (x["batch.covariate"] + 1) % BATCHES}
    assert log_likelihood(model, guide, swapped, ["x"], num_samples=200).values.mean() < exact.mean() - 1


def test_the_latent_of_a_data_point_does_not_depend_on_its_batch():
    model, guide = shifted_programs()
    x = shifted_data()
    moved = torch.zeros_like(x["batch.covariate"])
    other = {"x": x["x"] - SHIFTS[x["batch.covariate"]] + SHIFTS[moved], "batch.covariate": moved}
    torch.testing.assert_close(embed(guide, x), embed(guide, other))


def test_a_program_under_other_covariates_predicts_as_if_in_another_batch():
    model, guide = shifted_programs()
    x = shifted_data()
    kept, fixed = (
        cross_generate(program, guide, x, ["x"], 500, output="mean")["x"].mean(0)
        for program in (model, with_covariates(model, {"batch": 1}))
    )
    expected = SHIFTS[1] - SHIFTS[x["batch.covariate"]]
    torch.testing.assert_close(fixed - kept, expected, atol=0.2, rtol=0)
    latents = {"z": torch.randn(5, 2)}
    under = decode(with_covariates(model, {"batch": 2}), latents)["x"]
    torch.testing.assert_close(under, latents["z"] @ LOADINGS.T + SHIFTS[2])
    several = joint_samples(with_covariates(model, {"batch": torch.tensor([0, 2])}), 2_000, output="mean")["x"]
    torch.testing.assert_close(several[1::2].mean(0), SHIFTS[2], atol=0.2, rtol=0)


def test_a_missing_covariate_is_named():
    model, guide = shifted_programs()
    x = shifted_data()
    alone = {"x": x["x"]}
    with pytest.raises(ValueError, match=r"x must contain the covariates \['batch.covariate'\]"):
        model(alone)
    with pytest.raises(ValueError, match=r"x must contain the covariates \['batch.covariate'\]"):
        guide(alone)
    with pytest.raises(ValueError, match="unknown modality"):
        model({**x, "batch.other": x["batch.covariate"]})
    with pytest.raises(ValueError, match="sizes is empty"):
        Covariates({})


def test_restricted_programs_keep_covariates():
    model, _ = shifted_programs()
    x = shifted_data(4)
    assert set(restrict(model, ["x"])(x)) == {"z", "x"}


def data_with_effect(number=600):
    """Two modalities of one latent, moved far apart by the batch."""
    generator = torch.Generator().manual_seed(1)
    batch, z = torch.arange(number) % 2, torch.randn(number, 2, generator=generator)
    views = {}
    for name in ("a", "b"):
        loadings, shift = torch.randn(2, 6, generator=generator), 3 * torch.randn(2, 6, generator=generator)
        views[name] = z @ loadings + shift[batch] + 0.3 * torch.randn(number, 6, generator=generator)
    return from_tensors({**views, "batch": batch}, covariates=["batch"], scaling="standardize")


def accuracy(codes, classes):
    """Of the nearest mean, half of the data points fitting the means."""
    half = len(codes) // 2
    means = torch.stack([codes[:half][classes[:half] == k].mean(0) for k in range(2)])
    scale = codes.std(0)
    return (torch.cdist(codes[half:] / scale, means / scale).argmin(1) == classes[half:]).float().mean().item()


def test_an_embedding_shows_the_batch_only_without_the_covariate():
    splits = data_with_effect()
    test, _ = splits.test.rows(torch.arange(len(splits.test)))
    rows, _ = splits.train.rows(torch.arange(len(splits.train)))
    reached = {}
    for name, covariates in (("with", splits.train.covariates), ("without", {})):
        torch.manual_seed(0)
        recipe = build("mvae", networks_for(splits.train.modalities, (32,), covariates=covariates), 2)
        fit_recipe(recipe, splits, epochs=40, batch_size=50, lr=5e-3, progress=False)
        reached[name] = accuracy(embed(recipe.guide, rows), rows["batch.covariate"])
    assert reached["with"] < 0.6 < 0.9 < reached["without"]


@pytest.mark.parametrize("masked", [False, True], ids=["complete", "masked"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_covariates(method, masked):
    modalities = {
        "image": Modality("image", (6,), "vector", "normal"),
        "label": Modality("label", (), "label", "categorical", 3),
        "word": Modality("word", (4,), "text", "categorical", 5),
    }
    if masked and METHODS[method].needs_complete_rows:
        pytest.skip("it trains on complete rows")
    recipe = build(method, networks_for(modalities, (8, 8), covariates=DESCRIPTIONS), 3)
    names = recipe.model.modalities
    x = {"image": torch.randn(12, 6), "label": torch.randint(3, (12,)), "word": torch.randint(5, (12, 4))}
    x = {name: x[name] for name in names}
    x |= {"site.covariate": torch.randint(3, (12,)), "age.covariate": torch.randn(12, 1)}
    conditions = getattr(recipe.model, "conditions", ())
    first = next(name for name in names if name not in conditions)
    masks = {name: torch.arange(12) % 4 > 0 for name in names[1:] if name not in conditions} if masked else None
    objectives = [objective for stage in recipe.stages for objective in stage.objectives]
    for objective in objectives[:1] if method == "jnf" else objectives:
        loss = objective.differentiable_loss(recipe.model, recipe.guide, x, masks)
        assert loss.isfinite()
        loss.backward()
    modulations = [part.modulation for part in recipe.guide.modules() if isinstance(part, WithCovariates)]
    trained = [part.weight.grad is not None and part.weight.grad.abs().sum() > 0 for part in modulations]
    assert trained and (any(trained) if method == "jnf" else all(trained))
    given = list(conditions) or [first]
    x = {entry: values for entry, values in x.items() if entry in given or "." in entry}
    samples = []
    for site in range(2):
        torch.manual_seed(4)
        model = with_covariates(recipe.model, {"site": site})
        samples.append(cross_generate(model, recipe.guide, x, [first], 2, output="mean")[first])
    assert samples[0].shape[:2] == (2, 12) and not torch.equal(*samples)


def test_a_method_that_leaves_them_out_is_refused():
    def without(networks, latent_dim, weighting):
        return METHODS["vae"].build(networks_for(networks.modalities), latent_dim, weighting)

    register(replace(METHODS["vae"], name="careless", build=without))
    try:
        networks = networks_for({"a": Modality("a", (2,), "vector", "normal")}, covariates=DESCRIPTIONS)
        with pytest.raises(ValueError, match=r"careless does not pass the covariates \['site', 'age'\]"):
            build("careless", networks)
    finally:
        del METHODS["careless"]


TABLE = {
    "gene": torch.randn(40).tolist(),
    "site": ["p", "q"] * 20,
    "age": (50 + 10 * torch.randn(40)).tolist(),
}


def test_covariates_of_tensors_are_standardized_and_travel_with_their_rows():
    age = 50 + 10 * torch.randn(40)
    splits = from_tensors({"gene": torch.randn(40, 3), "site": TABLE["site"], "age": age}, covariates=["site", "age"])
    train = splits.train
    assert list(train.modalities) == ["gene"] and list(train.covariates) == ["site", "age"]
    x, _ = train.rows(torch.arange(len(train)))
    assert x["site.covariate"].dtype == torch.int64 and x["age.covariate"].shape == (32, 1)
    torch.testing.assert_close(x["age.covariate"].std(correction=0), torch.tensor(1.0))
    units = train.covariates["age"].to_units(x["age.covariate"])[:, 0]
    torch.testing.assert_close(units, age[torch.from_numpy(train.ids)])
    some = train.take(torch.tensor([5, 2])).select(["gene"])
    torch.testing.assert_close(some.rows(torch.arange(2))[0]["age.covariate"], x["age.covariate"][[5, 2]])
    moved = replace(train.covariate_data, x={**train.covariate_data.x, "site": 1 - train.covariate_data.x["site"]})
    assert replace(train, covariate_data=moved).content_hash != train.content_hash
    assert "label, covariate" in splits.describe()


def test_covariates_of_tables_are_mapped_by_the_descriptions_of_a_trained_model(tmp_path):
    train = from_table(TABLE, covariates=["site", "age"]).train
    assert list(train.modalities) == ["gene"]
    new = load_examples({**TABLE, "site": ["q"] * 40}, train.modalities, covariates=train.covariates)
    assert new.covariate_data.x["site"].tolist() == [1] * 40
    for changed, message in (
        ({"site": ["z"] * 40}, "unknown class 'z'"),
        ({"site": [""] + ["q"] * 39}, "covariate 'site' is missing in 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            load_examples({**TABLE, **changed}, train.modalities, covariates=train.covariates)
    with pytest.raises(ValueError, match="has no site, age: the model is conditioned on it"):
        load_examples({"gene": TABLE["gene"]}, train.modalities, covariates=train.covariates)


def test_what_cannot_be_a_covariate_is_refused():
    with pytest.raises(ValueError, match="covariates describes"):
        from_tensors({"a": torch.randn(9, 2)}, covariates=["b"])
    with pytest.raises(ValueError, match="covariate 'i' must be of kind label, ordinal or vector, got 'image'"):
        from_tensors({"a": torch.randn(40, 2), "i": torch.rand(40, 1, 8, 8)}, covariates=["i"])
    label = {"a": Modality("a", (), "label", "categorical", 2)}
    data = MultimodalData("data", label, {"a": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="'a' is a modality and a covariate"):
        MultimodalData("data", label, {"a": torch.tensor([0, 1])}, covariate_data=data)
    with pytest.raises(ValueError, match="same number of rows"):
        MultimodalData("data", {"b": label["a"]}, {"b": torch.zeros(3).long()}, covariate_data=data)


@pytest.fixture
def described(tmp_path):
    with open(tmp_path / "t.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(TABLE)
        table.writerows(zip(*TABLE.values(), strict=True))
    text = 'table = "t.csv"\n[modalities.gene]\ncolumn = "gene"\n'
    for name in ("site", "age"):
        text += f'[modalities.{name}]\ncolumn = "{name}"\ncovariate = true\n'
    (tmp_path / "t.toml").write_text(text)
    return tmp_path


def test_runs_remember_their_covariates(described):
    splits = load_toml(described / "t.toml")
    recipe = build("mvae", networks_for(splits.train.modalities, (8,), covariates=splits.train.covariates), 2)
    fit_recipe(recipe, splits, epochs=1, out=described / "run", progress=False)
    loaded = load(described / "run")
    x, _ = splits.test.rows(torch.arange(len(splits.test)))
    torch.testing.assert_close(embed(loaded.guide, x), embed(recipe.guide, x))
    assert loaded.recipe.networks.covariates == splits.train.covariates


def test_commands_train_and_predict_under_covariates(described, capsys):
    data, run = str(described / "t.toml"), str(described / "run")
    assert main(["train", "mvae", "--data", data, "--epochs", "1", "--hidden", "8", "--no-figure", "--out", run]) == 0
    file = described / "p.csv"
    predict = ["predict", run, "--given", "gene", "--target", "gene", "--file", str(file)]
    assert main([*predict, "--covariates", "site=p", "age=60"]) == 0
    first = file.read_text()
    assert main([*predict, "--covariates", "site=q", "age=60"]) == 0
    assert file.read_text() != first
    capsys.readouterr()
    assert main([*predict, "--covariates", "site=z"]) == 2
    assert "no class 'z'" in capsys.readouterr().err
    assert main([*predict, "--covariates", "sex=f"]) == 2
    assert "--covariates names sex: the run has site, age" in capsys.readouterr().err
    text = (described / "t.toml").read_text()
    (described / "less.toml").write_text(text[: text.index("[modalities.age]")])
    assert main(["embed", run, "--data", str(described / "less.toml"), "--file", str(file)]) == 2
    assert "has no age" in capsys.readouterr().err


def test_modalities_become_covariates():
    label = Modality("label", (), "label", "categorical", 2)
    data = MultimodalData(
        "data",
        {"label": label, "a": Modality("a", (1,), "vector", "normal")},
        {"label": torch.tensor([0, 1]), "a": torch.randn(2, 1)},
    )
    splits = Splits(data, data, data).with_covariates(["label"])
    assert list(splits.test.modalities) == ["a"] and splits.test.covariates == {"label": label}
    with pytest.raises(ValueError):
        data.with_covariates(["label", "a"])


def test_values_of_covariates_are_numbers_arrays_or_tensors():
    covariates = Covariates({"site": 3, "age": (1,)})
    model = MultimodalModel(2, {"x": NormalLikelihood(MLP(2 + 4, 3))}, covariates=covariates)
    latents = {"z": torch.randn(4, 2)}
    expected = decode(with_covariates(model, {"site": 2, "age": 1.0}), latents)["x"]
    for site, age in ((np.int64(2), 1), (torch.tensor(2), torch.tensor(1.0)), (torch.tensor([2]), np.float64(1))):
        torch.testing.assert_close(decode(with_covariates(model, {"site": site, "age": age}), latents)["x"], expected)
    with pytest.raises(ValueError, match=r"unknown covariates \['sites'\]: this program has \['site', 'age'\]"):
        with_covariates(model, {"sites": 2})
    wide = MultimodalModel(2, {"x": NormalLikelihood(MLP(4, 3))}, covariates=Covariates({"ages": (2,)}))
    with pytest.raises(ValueError, match=r"'ages' has the shape \(2,\), got values of shape \(3,\)"):
        with_covariates(wide, {"ages": [0.0, 1.0, 2.0]})


def test_covariates_of_several_data_points_do_not_depend_on_memory(monkeypatch):
    model, guide = shifted_programs()
    several = with_covariates(model, {"batch": torch.tensor([0, 2])})
    latents = {"z": torch.randn(6, 2)}
    expected = decode(several, latents)["x"]
    monkeypatch.setattr("multipyro.inference.evaluation._memory.MAX_ELEMENTS", 1)
    torch.testing.assert_close(decode(several, latents)["x"], expected)
    samples = joint_samples(several, 400, output="mean")["x"]
    torch.testing.assert_close(samples[1::2].mean(0), SHIFTS[2], atol=0.3, rtol=0)
    # rows of batches are computed in parts, and in likelihoods in any order
    with pytest.raises(ValueError, match="2 values of 'batch', for samples from the prior"):
        cross_generate(several, guide, shifted_data(4), ["x"])


@pytest.mark.parametrize("values", [torch.tensor([0, -1]), torch.tensor([[0.0], [torch.nan]])], ids=["ids", "numbers"])
def test_a_covariate_that_is_missing_in_a_row_is_named(values):
    covariates = Covariates({"c": (1,) if values.is_floating_point() else 3})
    with pytest.raises(ValueError, match="covariate 'c' is missing in row 1"):
        covariates({"c.covariate": values}, torch.float32)
