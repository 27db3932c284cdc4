"""Exported encoders and decoders agree with the programs they come from, for other batches and batch sizes."""

import io

import pyro
import pytest
import torch

from multipyro.data import from_tensors, load_dataset
from multipyro.inference import build, embed, networks_for
from multipyro.inference.evaluation import decode
from multipyro.inference.export import export_decoder, export_encoder
from multipyro.ppl_models import MLP, ConditionalModel, MultimodalModel, NormalLikelihood

ROWS = torch.arange(4)
OTHER_ROWS = torch.arange(10, 17)
pytestmark = pytest.mark.skipif(not hasattr(torch.export.Dim, "DYNAMIC"), reason="torch.export of PyTorch 2.6")


def trained_like(method, splits):
    """A recipe whose parameters differ from their initial values."""
    recipe = build(method, networks_for(splits.train.modalities, (8,), covariates=splits.train.covariates), 3)
    with torch.no_grad():
        for parameter in (*recipe.model.parameters(), *recipe.guide.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return recipe


def posterior(guide, x):
    with torch.no_grad():
        result = guide.eval().conditional(x)
    return result["z"] if isinstance(result, dict) else result


@pytest.mark.parametrize("method", ["mopoe", "jmvae-kl", "mmvae+"])
def test_exported_networks_agree(method):
    digits = load_dataset("digits")
    recipe = trained_like(method, digits)
    (x, _), (other, _) = digits.test.rows(ROWS), digits.test.rows(OTHER_ROWS)
    given = {name: other[name] for name in ("image", "label")}
    result = export_encoder(recipe.guide, x, list(given)).module()(given)
    torch.testing.assert_close(result["mean"], embed(recipe.guide, given))
    torch.testing.assert_close(result["sd"], posterior(recipe.guide, given).variance.sqrt())
    latents = {"z": torch.randn(7, 3)}
    latents |= {f"z_{name}": torch.randn(7, prior().event_shape[0]) for name, prior in recipe.model.private.items()}
    values, expected = export_decoder(recipe.model).module()(latents), decode(recipe.model, latents)
    torch.testing.assert_close(values["image"], expected["image"])
    torch.testing.assert_close(values["label"].argmax(-1), expected["label"])
    torch.testing.assert_close(values["word"].sum(-1), torch.ones(7, 5))


def test_exported_networks_take_covariates_and_mask_missing_entries():
    counts = torch.poisson(torch.full((60, 5), 4.0))
    counts[::4, 1] = torch.nan
    views = {"counts": counts, "age": torch.randn(60), "site": torch.randint(3, (60,))}
    splits = from_tensors(views, kinds={"counts": "counts"}, covariates=["site", "age"])
    recipe = trained_like("mvae", splits)
    (x, _), (other, _) = splits.train.rows(ROWS), splits.train.rows(OTHER_ROWS)
    assert other["counts"].isnan().any()
    result = export_encoder(recipe.guide, x).module()(other)
    torch.testing.assert_close(result["mean"], posterior(recipe.guide, other).mean)
    inputs = {"z": torch.randn(7, 3), **{name: other[name] for name in ("site.covariate", "age.covariate")}}
    values = export_decoder(recipe.model, ["counts"], x).module()(inputs)["counts"]
    with torch.no_grad():
        features = recipe.model.covariates(inputs, torch.float32)
        expected = recipe.model.likelihoods["counts"](torch.cat([inputs["z"], features], -1)).mean
    torch.testing.assert_close(values, expected)


def test_a_decoder_is_exported_with_the_type_of_its_parameters():
    model = MultimodalModel(2, {"image": NormalLikelihood(MLP(5, 4))}, private={"image": 3}).double()
    nodes = export_decoder(model).graph.nodes
    latents = [node.meta["val"] for node in nodes if node.name in ("inputs_z", "inputs_z_image")]
    assert [(value.shape[1], value.dtype) for value in latents] == [(2, torch.float64), (3, torch.float64)]


def test_onnx_agrees(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    digits = load_dataset("digits").select(["image", "label"])
    recipe = trained_like("mvae", digits)
    (x, _), (other, _) = digits.test.rows(ROWS), digits.test.rows(OTHER_ROWS)
    encoder = export_encoder(recipe.guide, x)
    names = {"input_names": list(x), "output_names": ["mean", "sd"]}
    torch.onnx.export(encoder, f=str(tmp_path / "encoder.onnx"), verbose=False, **names)
    session = runtime.InferenceSession(tmp_path / "encoder.onnx")
    mean, _ = session.run(["mean", "sd"], {name: values.numpy() for name, values in other.items()})
    torch.testing.assert_close(torch.from_numpy(mean), embed(recipe.guide, other))


def test_programs_that_cannot_be_exported_are_named():
    digits = load_dataset("digits")
    recipe, (x, _) = trained_like("mvae", digits), digits.test.rows(ROWS)
    with pytest.raises(ValueError, match=r"given must be some of .*, got \['sound'\]"):
        export_encoder(recipe.guide, x, ["sound"])
    with pytest.raises(TypeError, match=r"latent given \['image'\] has no mean in closed form, as it is a "):
        export_encoder(trained_like("jnf", digits).guide, x, ["image"])
    with pytest.raises(TypeError, match="needs a Guide, got function"):
        export_encoder(lambda x, observed=None: None, x)
    with pytest.raises(ValueError, match=r"unknown modality \['sound'\]"):
        export_decoder(recipe.model, ["sound"])
    conditional = ConditionalModel(2, {"image": NormalLikelihood(MLP(12, 64))}, ["label"])
    with pytest.raises(TypeError, match="needs a MultimodalModel, got ConditionalModel"):
        export_decoder(conditional)


def test_an_exported_network_is_a_copy():
    splits = load_dataset("digits")
    recipe = trained_like("mopoe", splits)
    pyro.module("guide", recipe.guide)  # adds weak references to the parameters
    x, _ = splits.test.rows(ROWS)
    exported = export_encoder(recipe.guide, x, ["image"])
    before = exported.module()({"image": x["image"]})["mean"]
    with torch.no_grad():
        for parameter in recipe.guide.parameters():
            parameter.zero_()
    assert torch.equal(exported.module()({"image": x["image"]})["mean"], before) and before.any()
    torch.export.save(exported, io.BytesIO())
