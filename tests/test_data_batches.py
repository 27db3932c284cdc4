"""Rows and batches: shapes and types, order, sharing between processes, masks, draws that repeat."""

import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from multipyro.data import IndexedTensor, Modality, MultimodalData, as_batch, load_dataset

ROWS = 23
MODALITIES = {
    "image": Modality("image", (1, 2, 2), "image", "bernoulli"),
    "label": Modality("label", (), "label", "categorical", 100),
    "vector": Modality("vector", (3,), "vector", "normal"),
}


def noise(x, generator):
    """A transform that draws a new vector."""
    return {**x, "vector": torch.rand(x["vector"].shape, generator=generator)} if "vector" in x else x


def data(rows=ROWS, **changes):
    """A small data set whose label is the number of the row."""
    numbers = torch.arange(rows)
    x = {
        "image": (numbers % 2 * 255).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "label": numbers,
        "vector": numbers[:, None] + torch.tensor([0.0, 0.25, 0.5]),
    }
    fields = {"name": "toy", "modalities": MODALITIES, "x": x, "labels": numbers % 2}
    return MultimodalData(**{**fields, **changes})


def order(batches):
    """The numbers of the rows, batch by batch."""
    return [x["label"].tolist() for x, _ in batches]


def flat(lists):
    """One list of many."""
    return [number for numbers in lists for number in numbers]


def test_a_batch_is_a_pair_of_dicts():
    batches = data().batches(5)
    assert len(batches) == len(list(batches)) == 5
    x, observed = next(iter(batches))
    assert observed is None
    assert {name: (tuple(v.shape), v.dtype) for name, v in x.items()} == {
        "image": ((5, 1, 2, 2), torch.float32),
        "label": ((5,), torch.int64),
        "vector": ((5, 3), torch.float32),
    }
    assert x["image"][:, 0, 0, 0].tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(x["vector"][:, 0], x["label"].float())


def test_a_batch_is_a_copy():
    rows = data()
    before = rows.content_hash
    for x, _ in rows.batches(ROWS):
        for values in x.values():
            values.zero_()
    assert dataclasses.replace(rows).content_hash == before


def test_every_row_comes_once_in_an_order_of_its_seed_and_epoch():
    rows = data()
    assert flat(order(rows.batches(5))) == list(range(ROWS))
    orders = {(s, e): flat(order(rows.batches(5, shuffle=True, seed=s, epoch=e))) for s in (0, 1) for e in (0, 1)}
    assert all(sorted(found) == list(range(ROWS)) for found in orders.values())
    assert len({tuple(found) for found in orders.values()}) == 4


def test_an_epoch_repeats_whatever_else_draws():
    batches = data().batches(5, shuffle=True, seed=3, epoch=7)
    first = order(batches)
    torch.rand(11)
    assert order(batches) == first
    state = torch.get_rng_state()
    order(data(transform=noise).batches(5, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_drop_last():
    assert [len(found) for found in order(data().batches(5, drop_last=True))] == [5, 5, 5, 5]
    assert [len(found) for found in order(data(20).batches(5, drop_last=True))] == [5, 5, 5, 5]
    assert len(data(3).batches(5, drop_last=True)) == 0
    assert len(data(0).batches(5)) == 0


@pytest.mark.parametrize("rows", [1, 20, 21, 23, 24])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_rows(rows, world_size):
    shuffled = {"shuffle": True, "seed": 1}
    shares = [order(data(rows).batches(4, rank=r, world_size=world_size, **shuffled)) for r in range(world_size)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    together = flat(flat(shares))
    assert set(together) == set(range(rows))
    assert len(together) - rows == -rows % world_size
    # a step of all processes sees the rows of one process with so many times the batch
    alone = order(data(rows).batches(4 * world_size, **shuffled))
    for number, numbers in enumerate(alone):
        assert set(numbers) <= set(flat(share[number] for share in shares))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, r"rank must lie in \[0, world_size\), got 2 of 2"),
    ],
)
def test_batches_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        data().batches(**settings)


def test_masks_travel_with_their_rows():
    mask = torch.arange(ROWS) % 3 > 0
    rows = data(observed={"image": mask})
    for x, observed in rows.batches(5, shuffle=True):
        assert list(observed) == ["image"]
        assert torch.equal(observed["image"], x["label"] % 3 > 0)
    taken = rows.take(torch.tensor([4, 3]))
    assert taken.observed["image"].tolist() == [True, False]
    assert taken.labels.tolist() == [0, 1]
    assert rows.select(["label"]).observed == {}
    assert rows.select(["label", "image"]).observed["image"] is mask


def test_draws_depend_on_seed_epoch_and_batch_alone():
    def vectors(rows, **settings):
        return torch.cat([x["vector"] for x, _ in rows.batches(5, **settings)])

    rows = data(transform=noise)
    first = vectors(rows, seed=2, epoch=4)
    assert first.unique().numel() == first.numel()
    assert torch.equal(vectors(pickle.loads(pickle.dumps(rows)), seed=2, epoch=4), first)
    assert not torch.equal(vectors(rows, seed=2, epoch=5), first)
    assert not torch.equal(vectors(rows, seed=3, epoch=4), first)
    assert not torch.equal(vectors(rows.with_split("validation"), seed=2, epoch=4), first)
    both = [vectors(rows, seed=2, epoch=4, rank=r, world_size=2) for r in range(2)]
    assert torch.cat(both).unique().numel() == 24 * 3


def test_rows_without_a_generator_repeat():
    rows, index = data(transform=noise), torch.tensor([1, 5])
    assert torch.equal(rows.rows(index)[0]["vector"], rows.rows(index)[0]["vector"])


def test_some_of_the_modalities():
    rows = data(transform=noise).select(["label", "image"])
    assert list(rows.modalities) == list(rows.x) == ["label", "image"]
    assert [list(x) for x, _ in rows.batches(20)] == [["label", "image"]] * 2
    for names in (["sound"], []):
        with pytest.raises(ValueError, match=r"'toy' has the modalities \['image', 'label', 'vector'\], got \["):
            rows_of = data()
            rows_of.select(names)


def test_different_contents_have_different_hashes():
    numbers = torch.arange(ROWS)
    first = data().content_hash
    assert first == data().content_hash
    assert len(first) == 64
    x = {name: values.clone() for name, values in data().x.items()}
    x["vector"][3, 1] += 1e-3
    others = [data(x=x), data(22), data(observed={"label": numbers > 3}), data(observed={"label": numbers > 4})]
    others.append(data().select(["label"]))
    assert len({first, *(other.content_hash for other in others)}) == 6


def changed(name, values):
    """Fields of the toy data with another tensor in place of one."""
    return {"x": {**data().x, name: values}}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    {
        "modality without values": ({"x": {"label": torch.arange(3)}}, ValueError, r"\['label'\], but \['image'"),
        "no modality": ({"x": {}, "modalities": {}}, ValueError, "are described"),
        "rows differ": (changed("vector", torch.zeros(22, 3)), ValueError, "same number of rows.*'vector': 22"),
        "labels differ": ({"labels": torch.arange(4)}, ValueError, "same number of rows.*labels: 4"),
        "shape": (changed("vector", torch.zeros(ROWS, 4)), ValueError, r"'vector' must have shape \(rows, 3\)"),
        "scalar": (changed("vector", torch.tensor(1.0)), TypeError, "'vector' must be a tensor with the rows first"),
        "no tensor": (changed("vector", [1.0] * ROWS), TypeError, "'vector' must be a tensor with the rows first"),
        "float label": (changed("label", torch.zeros(ROWS)), TypeError, "'label' must have int64, got torch.float32"),
        "int vector": (
            changed("vector", torch.zeros(ROWS, 3, dtype=torch.uint8)),
            TypeError,
            "'vector' must have a floating dtype, got torch.uint8",
        ),
        "int image": (
            changed("image", torch.zeros(ROWS, 1, 2, 2, dtype=torch.int64)),
            TypeError,
            "'image' must have a floating dtype or uint8, got torch.int64",
        ),
        "unknown mask": ({"observed": {"sound": torch.ones(ROWS) > 0}}, ValueError, r"unknown modality \['sound'\]"),
        "float mask": ({"observed": {"image": torch.ones(ROWS)}}, TypeError, r"observed\['image'\] must have bool"),
        "wide mask": (
            {"observed": {"image": torch.ones(ROWS, 1) > 0}},
            ValueError,
            r"observed\['image'\] must have shape \(rows\), got \(23, 1\)",
        ),
        "float labels": ({"labels": torch.zeros(ROWS)}, TypeError, "labels must have int64"),
    }.values(),
)
def test_data_that_contradicts_its_description(changes, error, message):
    with pytest.raises(error, match=message):
        data(**changes)


def test_identifiers_follow_their_rows():
    assert data().ids.tolist() == list(range(ROWS))
    named = data(ids=[f"patient {i}" for i in range(ROWS)])
    taken = named.take(torch.tensor([7, 2])).take(torch.tensor([1]))
    assert taken.ids.tolist() == ["patient 2"] and taken.x["label"].tolist() == [2]
    with pytest.raises(ValueError, match="same number of rows, got .*ids: 2"):
        data(ids=["a", "b"])


def test_rows_are_drawn_in_proportion_to_their_weights():
    rows = data(2_000, modalities={**MODALITIES, "label": Modality("label", (), "label", "categorical", 2_000)})
    weights = torch.zeros(2_000)
    weights[:500], weights[500:600] = 1.0, 5.0
    weighted = dataclasses.replace(rows, weights=weights)
    drawn = torch.tensor(flat(order(weighted.batches(64, shuffle=True, seed=1))))
    assert len(drawn) == 2_000 and drawn.max() < 600
    # half of the weight lies on the last hundred: 1,000 expected, standard deviation 22
    assert abs((drawn >= 500).sum().item() - 1_000) < 4 * 22.4
    assert flat(order(weighted.batches(64, shuffle=True, seed=1))) == drawn.tolist()
    assert flat(order(weighted.batches(64))) == list(range(2_000))  # an order that is not drawn has each row once
    assert torch.equal(weighted.take(torch.tensor([501, 3])).weights, torch.tensor([5.0, 1.0]))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.full((ROWS,), -1.0), ValueError, "weights must be finite numbers that are not negative"),
        (torch.full((ROWS,), torch.nan), ValueError, "weights must be finite"),
        (torch.zeros(ROWS), ValueError, "weights are all 0"),
        (torch.ones(ROWS).long(), TypeError, "weights must have a floating dtype"),
    ],
)
def test_weights_that_cannot_be(weights, error, message):
    with pytest.raises(error, match=message):
        data(weights=weights)


def test_balanced_classes_are_equally_frequent():
    labels = (torch.arange(1_000) % 10 == 0).long()
    label = Modality("label", (), "label", "categorical", 2)
    rows = MultimodalData("toy", {"label": label}, {"label": labels}, labels=labels)
    for balanced in (rows.balanced(), rows.balanced("label")):
        drawn = torch.cat([x["label"] for x, _ in balanced.batches(100, shuffle=True)])
        assert abs(drawn.float().mean().item() - 0.5) < 4 * 0.5 / 1_000**0.5
    with pytest.raises(ValueError, match="has no labels: name a modality"):
        dataclasses.replace(rows, labels=None).balanced()
    with pytest.raises(ValueError, match="'vector' has no classes"):
        data().balanced("vector")
    with pytest.raises(ValueError, match="some rows have no 'label'"):
        dataclasses.replace(rows, observed={"label": labels > 0}).balanced("label")


def test_whole_numbers_of_counts_become_floats_in_batches():
    counts = Modality("rna", (3,), "counts", "poisson")
    values = torch.tensor([[0, 300, 2], [1, 0, 70_000]])
    for dtype in (torch.int64, torch.int32, torch.float32):
        x, _ = MultimodalData("cells", {"rna": counts}, {"rna": values.to(dtype)}).rows(torch.tensor([1, 0]))
        assert x["rna"].dtype == torch.float32 and x["rna"].tolist() == [[1, 0, 70_000], [0, 300, 2]]


LOADED = {
    "dicts": lambda image, label: [{"image": i, "label": n} for i, n in zip(image, label, strict=True)],
    "tuples": lambda image, label: TensorDataset(image, label),
}


@pytest.mark.parametrize("make", LOADED.values(), ids=LOADED)
def test_batches_of_any_loader_become_pairs(make):
    image, label = torch.rand(10, 3), torch.arange(10)
    found = [as_batch(batch, ["image", "label"]) for batch in DataLoader(make(image, label), 4)]
    assert torch.equal(torch.cat([x["image"] for x, _ in found]), image)
    assert torch.equal(torch.cat([x["label"] for x, _ in found]), label)
    assert all(observed is None for _, observed in found)


def test_pairs_stay_pairs_and_missing_modalities_are_left_out():
    image, mask = torch.rand(4, 3), torch.tensor([True, False, True, True])
    for pair in (({"image": image}, {"image": mask}), [{"image": image.numpy()}, {"image": mask.numpy()}]):
        x, observed = as_batch(pair, ["image", "label"])
        assert torch.equal(x["image"], image) and torch.equal(observed["image"], mask)
    assert list(as_batch({"image": image, "label": None}, ["image", "label"])[0]) == ["image"]
    assert list(as_batch(image, ["image"])[0]) == ["image"]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([torch.ones(2)], ValueError, "a batch of 1 values does not say which of the modalities"),
        ("text", TypeError, "a batch must be a dict of modality name to tensor, .* got str"),
        ({"sound": torch.ones(2)}, ValueError, "unknown modality 'sound'"),
        (({"image": torch.ones(2)}, {"sound": torch.ones(2)}), ValueError, "unknown modality 'sound'"),
        (({"image": torch.ones(2)}, torch.ones(2)), TypeError, "observed must be None or a dict"),
    ],
)
def test_batches_of_unknown_form(batch, error, message):
    with pytest.raises(error, match=message):
        as_batch(batch, ["image", "label"])


def test_representations_are_short():
    splits = load_dataset("digits")
    assert len(repr(splits)) < 120 and len(repr(splits.train)) < 120 and len(str(splits.describe())) < 500
    assert repr(IndexedTensor(torch.rand(2, 3), torch.tensor([1, 1, 0]))) == (
        "<IndexedTensor (3, 3) of 2 distinct rows, torch.float32>"
    )
    assert repr(splits.test) == "<digits, test: 300 examples of image (1, 8, 8), label (), word (5,)>"


def test_descriptions_show_ranges_missing_values_and_other_readings():
    values = torch.stack([torch.arange(40.0), 1e4 * torch.rand(40)], 1)
    values[::4, 0] = torch.nan
    modalities = {
        "labs": Modality("labs", (2,), "vector", "normal", missing_entries=True),
        "children": Modality("children", (1,), "vector", "normal"),
        "mix": Modality("mix", (2,), "vector", "normal"),
        "stage": Modality("stage", (), "label", "categorical", 3, ("1", "2", "3")),
    }
    mix = torch.rand(40, 1)
    x = {"labs": values, "children": torch.arange(40.0)[:, None] % 7, "mix": torch.cat([mix, 1 - mix], 1)}
    rows = MultimodalData(
        "clinic", modalities, {**x, "stage": torch.arange(40) % 3}, observed={"stage": torch.arange(40) % 2 > 0}
    )
    told = rows.describe().splitlines()
    assert told[0] == "clinic, train: 40 examples"
    assert told[2].startswith("labs ") and told[2].endswith("12 % of the entries")
    assert told[5].endswith("3 classes: 1, 2, 3  50 % of the examples")
    hints = dict(line.split(": ", 1) for line in told[6:])
    assert 'scaling "standardize"' in hints["labs"] and 'kind "counts"' in hints["children"]
    assert 'kind "proportions"' in hints["mix"] and 'kind "ordinal"' in hints["stage"]


def test_names_from_data_are_never_obeyed():
    names = ("<script>alert(1)</script>", "\x1b[2J")
    label = Modality("<b>", (), "label", "categorical", 2, names)
    rows = MultimodalData("<i>\x1b[2J", {"<b>": label}, {"<b>": torch.tensor([0, 1])})
    assert "\x1b" not in rows.describe() and "\\x1b[2J" in rows.describe()
    shown = rows._repr_html_()
    assert not any(mark in shown for mark in ("<b>", "<i>", "<script>", "\x1b"))
