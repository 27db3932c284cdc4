"""CUB: every distribution, words and vocabulary, and features."""

import os

import fake_cub
import fake_mnist
import numpy as np
import pytest
import torch
from PIL import Image

from multipyro.data import DATASETS, load_dataset
from multipyro.data.sets import cub as module
from multipyro.data.sets import features as features_module
from multipyro.data.sets import load_cub
from multipyro.data.sets.captions import caption_ids, caption_modality, caption_vocabulary
from multipyro.data.sets.cub import cub_source
from multipyro.data.sets.features import resnet_features
from multipyro.data.tokenization import tokenize
from multipyro.inference import build, cross_generate, fit_recipe, networks_for


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def agree(part, gray, scale):
    """Check that each row's caption is one of its image, in turn; the numbers of the images."""
    x, _ = part.rows(torch.arange(len(part)))
    numbers = ((x["image"].mean((1, 2, 3)) * 255 - gray) / scale).round().long().tolist()
    texts = part.modalities["caption"].decode(x["caption"])
    each = len(part) // len(part.x["image"].pool)
    known = set(part.modalities["caption"].vocabulary)
    for row, (number, text) in enumerate(zip(numbers, texts, strict=True)):
        words = tokenize(fake_cub.captions([number])[row % each])
        assert text.split() == [*(word if word in known else "<exc>" for word in words), "<eos>"]
    assert numbers == sorted(numbers)
    return numbers[::each]


def test_the_original_distribution(root):
    folder = fake_cub.write_original(root)
    assert cub_source(root) == folder
    splits = load_cub(root)
    # every tenth image of the training classes validates
    found = [agree(getattr(splits, name), 20, 15) for name in splits.NAMES]
    assert found == [list(range(9)), [9], [10, 11]]
    assert splits.train.labels[::10].tolist() == [1, 1, 9, 9, 9, 9, 9, 9, 9]
    assert (splits.validation.labels.unique().tolist(), splits.test.labels.unique().tolist()) == ([9], [0])
    assert splits.train.x["image"].dtype == torch.uint8
    assert splits.train.x["caption"].shape == (90, 32)
    # by name, not in the order in which they were listed
    with Image.open(folder / "train" / "002.Auk" / "a.jpg") as first:
        assert first.size == (100, 80)


def test_folders_without_numbers_have_classes_by_rank(root):
    folder = fake_cub.write_original(root)
    for name, new in (("train/002.Auk", "train/auk"), ("train/010.Jay", "train/jay"), ("test/001.Wren", "test/wren")):
        os.rename(folder / name, folder / new)
    splits = load_cub(root, captions="first")
    assert splits.train.labels.tolist() == [0, 0, *[1] * 7]
    assert splits.test.labels.tolist() == [2, 2]


def test_the_compact_files(root):
    path = fake_cub.write_compact(root)
    assert cub_source(root) == path
    splits = load_dataset("cub", root)
    found = [agree(getattr(splits, name), 0, 8) for name in splits.NAMES]
    # the fifth and the tenth class test
    tested = [12, 13, 14, 27, 28, 29]
    trained = [number for number in range(30) if number not in tested]
    assert found == [[n for i, n in enumerate(trained) if i % 10 < 9], trained[9::10], tested]
    assert splits.test.labels.unique().tolist() == [14, 19]
    assert not {*splits.train.labels.tolist()} & {14, 19}
    boxes = load_cub(root, crop="box", captions="first")
    assert boxes.train.x["image"].pool[:3].float().mean((1, 2, 3)).round().tolist() == [255, 247, 239]
    fake_cub.write_original(root)
    assert cub_source(root) == root / "cub"


def test_the_folders_of_caltech_and_reed(root, tmp_path):
    fake_cub.write_original(tmp_path / "other")
    folder = fake_cub.write_caltech(root)
    assert (cub_source(root), DATASETS["cub"].missing(root)) == (folder, "")
    splits, other = load_cub(root), load_cub(tmp_path / "other")
    assert [agree(getattr(splits, name), 20, 15) for name in splits.NAMES] == [list(range(9)), [9], [10, 11]]
    for name in splits.NAMES:
        assert getattr(splits, name).content_hash == getattr(other, name).content_hash
        assert torch.equal(getattr(splits, name).labels, getattr(other, name).labels)
    fake_cub.write_compact(root)
    assert cub_source(root) == folder
    fake_cub.write_original(root)
    assert cub_source(root) == root / "cub"


def test_one_caption_per_image(root):
    fake_cub.write_original(root)
    every, first = load_cub(root), load_dataset("cub", root, captions="first")
    for name in every.NAMES:
        agree(getattr(first, name), 20, 15)
        assert torch.equal(getattr(every, name).x["caption"][::10], getattr(first, name).x["caption"])
    assert first.train.modalities == every.train.modalities
    assert len(load_dataset("cub", root, num_rows=7).train) == 7


def test_images_are_stored_and_decoded_once(root, tmp_path, monkeypatch):
    fake_cub.write_original(root)
    first = load_cub(root)
    assert len(first.train.x["image"].pool) == 9
    monkeypatch.setattr(module, "decode_images", lambda *arguments: pytest.fail("decodes again"))
    assert load_cub(root).train.content_hash == first.train.content_hash
    assert len(os.listdir(tmp_path / "cache" / "multipyro" / "CUB")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "end": ("a red bird.", "a red bird ."),
        "commas": ("red,gray, and 2,000 or 3:1: so", "red , gray , and 2,000 or 3:1 : so"),
        "genitive": ("the bird's bill isn't it's own, they're", "the bird 's bill is n't it 's own , they 're"),
        "plural genitive": ("long tarsus', and birds' wings", "long tarsus ' , and birds ' wings"),
        "case": ("Baltimore Oriole It's", "Baltimore Oriole It 's"),
        "brackets": ("wings (black & white) 5%!", "wings ( black & white ) 5 % !"),
        "hyphens": ("two-toned yellow/green 1.5", "two-toned yellow/green 1.5"),
        "sentences": ("gray. small... black", "gray . small ... black"),
        "specials": ("a <eos> b", "a < eos > b"),
        "spaces": ("  a \t b ", "a b"),
        "nothing": ("", ""),
    }.values(),
)
def test_words(text, words):
    assert tokenize(text) == words.split()
    # what is cut once stays as it is, but for what never comes apart of itself
    assert "n't" in words or tokenize(words) == tokenize(text)


def test_the_vocabulary_has_what_occurs_more_than_three_times():
    captions = [["b", "a", "a", "a"], ["b", "b", "c"], ["a", "b"], ["c", "c"]]
    assert caption_vocabulary(captions) == ("<exc>", "<pad>", "<eos>", "b", "a")
    assert caption_vocabulary(captions, min_count=3)[3:] == ("b", "a", "c")
    assert caption_vocabulary([]) == ("<exc>", "<pad>", "<eos>")


@pytest.mark.parametrize("length", [0, 1, 5, 30, 31, 32, 70])
def test_captions_are_cut_ended_and_padded(length):
    modality = caption_modality("caption", caption_vocabulary([["a", "b"] * 4]), 32)
    words = ["a", "b", "unheard"] * 30
    ids = caption_ids([words[:length]], modality)
    kept = min(length, 31)
    wanted = [3, 4, 0] * 30
    assert ids.tolist() == [[*wanted[:kept], 2, *[1] * (31 - kept)]]
    (text,) = modality.decode(ids)
    assert torch.equal(modality.encode([text]), ids)
    assert text.split() == [*(w if w in "ab" else "<exc>" for w in words[:kept]), "<eos>"]


def test_no_caption_forges_a_special_word():
    modality = caption_modality("caption", caption_vocabulary([["a"] * 4]), 5)
    assert caption_ids([["<pad>", "a", "<pad>"]], modality).tolist() == [[0, 3, 0, 2, 1]]


def test_the_vocabulary_comes_from_training_captions_alone(root):
    path = fake_cub.write_original(root) / "text_testclasses.txt"
    path.write_text(path.read_text().replace("bird", "penguin"))
    splits = load_cub(root)
    vocabulary = splits.train.modalities["caption"].vocabulary
    assert ("bird" in vocabulary, "penguin" in vocabulary, "n3" in vocabulary) == (True, False, False)
    assert splits.test.modalities["caption"].decode(splits.test.x["caption"][9:10]) == ["<exc> <eos>"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with random weights of ResNet-101."""
    from torchvision.models import resnet101

    with torch.device("meta"):
        empty = resnet101(weights=None).state_dict()
    generator = torch.Generator().manual_seed(3)
    # as a network before training: convolutions that keep the variance, normalizations that do nothing
    state = {
        name: torch.randn(values.shape, generator=generator) * (2 / values[0].numel()) ** 0.5
        if values.dim() > 1
        else torch.full(values.shape, float(name.endswith(("weight", "var"))), dtype=values.dtype)
        for name, values in empty.items()
    }
    path = tmp_path_factory.mktemp("weights") / "resnet101.pth"
    torch.save(state, path)
    return path


def test_features_are_computed_once_and_identify_the_images(root, weights, monkeypatch):
    monkeypatch.setattr(features_module, "_SHORTER", 40)
    folder = fake_cub.write_original(root)
    generator = np.random.default_rng(0)
    for path in (folder / "train").glob("*/*"):
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    features = load_dataset("cub", root, features=weights, captions="first").train
    assert features.modalities["image"].kind == "vector"
    assert (features.x["image"].shape, features.x["image"].dtype) == ((9, 2048), torch.float32)
    pool = features.x["image"].pool
    generated = pool[[4, 0, 8]] + 0.01 * pool.std(0) * torch.randn(3, 2048)
    assert torch.cdist(generated, pool).argmin(1).tolist() == [4, 0, 8]
    paths = sorted((folder / "train").glob("*/*"))[:2]
    assert torch.allclose(resnet_features(paths, weights), pool[:2], atol=1e-5)
    monkeypatch.setattr(module, "resnet_features", lambda *arguments: pytest.fail("computes again"))
    assert load_cub(root, features=str(weights)).train.x["image"].pool.equal(pool)
    # the same rows as images, which a model of features leads to
    pictures = load_cub(root, captions="first").train
    assert torch.equal(pictures.x["caption"], features.x["caption"])
    splits = load_cub(root, captions="first", features=weights)
    recipe = build("mvae", networks_for(splits.train.modalities, (4,)), 2)
    fit_recipe(recipe, splits, epochs=1, batch_size=4, progress=False)
    x, _ = splits.test.select(["caption"]).rows(torch.arange(2))
    drawn = cross_generate(recipe.model, recipe.guide, x, ["image"], num_samples=3)["image"]
    found = torch.cdist(drawn, pool).argmin(-1)
    assert (drawn.shape, found.shape) == ((3, 2, 2048), (3, 2))
    assert pictures.x["image"].pool[found].shape == (3, 2, 3, 64, 64)


def test_features_by_torchvision(root, weights, monkeypatch):
    """What the released code computes: values in [0, 1], resized, through all but the last layer."""
    from torchvision.models import resnet101
    from torchvision.transforms.v2 import functional

    path = root / "bird.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (250, 300, 3), dtype=np.uint8)).save(path)
    with torch.device("meta"):
        network = resnet101(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True), assign=True)
    network.fc = torch.nn.Identity()
    picture = functional.to_image(Image.open(path)).float() / 255
    assert features_module._SHORTER == 224
    monkeypatch.setattr(features_module, "_SHORTER", 96)
    with torch.no_grad():
        wanted = network.eval()(functional.resize(picture, [96], antialias=True)[None])
    torch.testing.assert_close(resnet_features([path], weights), wanted, rtol=1e-3, atol=1e-4)
    compact = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    torch.testing.assert_close(resnet_features(compact, weights), wanted.expand(2, -1), rtol=2e-3, atol=1e-4)


def test_damaged_weights(root, weights, tmp_path):
    fake_cub.write_compact(root)
    with pytest.raises(
        FileNotFoundError, match="weights of ResNet-101 are missing: .*none.pth; download resnet101-63fe"
    ):
        load_cub(root, features=tmp_path / "none.pth")
    bad = tmp_path / "bad.pth"
    whole, text = weights.read_bytes(), b"root:x:0:0:root:/root:/bin/bash\n" * 20
    for content in (b"", b"no weights", text, b"\n" * 900, b"\x80\x02]q\x00.", whole[:100_000], whole[:-9], whole[9:]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=f"{bad} is damaged or not the weights of ResNet-101"):
            resnet_features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), bad)
    torch.save({"fc.weight": torch.zeros(3)}, bad)
    with pytest.raises(ValueError, match=f"{bad} is damaged or not the weights of ResNet-101"):
        resnet_features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), bad)


def test_the_real_files():
    if not os.environ.get("MULTIPYRO_DATA"):
        pytest.skip("MULTIPYRO_DATA is not set: this test needs the real CUB")
    try:
        source = cub_source()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if source.is_dir():
        pytest.skip("the original CUB takes long to decode")
    splits = load_dataset("cub", captions="first")
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [2_112, 234, 587]
    assert [len(getattr(splits, name).labels.unique()) for name in splits.NAMES] == [40, 40, 10]
    # the file holds Reed's test classes alone
    assert {*torch.cat([getattr(splits, name).labels for name in splits.NAMES]).add(1).tolist()} == {
        *module._TEST_CLASSES
    }
    part = splits.train
    texts, pictures = part.modalities["caption"].decode(part.x["caption"]), part.x["image"].pool.float()
    # birds that are said to be yellow are, against others of the set
    yellow = torch.tensor(["yellow" in text for text in texts])
    blueness = (pictures[:, 2] - pictures[:, :2].mean(1))[:, 16:48, 16:48].mean((1, 2))
    assert blueness[yellow].mean() < blueness[~yellow].mean() - 5
