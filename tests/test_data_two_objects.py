"""Sets of rendered scenes: their files, their parts, and, where pyvista is installed, their images."""

import json
import os
import signal
import subprocess
import sys
import time

import fake_mnist
import matplotlib
import numpy as np
import pytest
import torch

from multipyro.data import load_dataset
from multipyro.data.scenes import render_jobs, renderer
from multipyro.data.scenes import two_objects as module
from multipyro.data.scenes.composition import (
    COLORS,
    MATERIALS,
    SHAPES,
    SIZES,
    WORDS,
    draw_scene,
    sentence,
    sentence_is_true,
)
from multipyro.data.scenes.render_jobs import SceneRecipe, can_render
from multipyro.data.scenes.two_objects import load_scenes, scene_arrays
from multipyro.data.storage import write_atomically

needs_pyvista = pytest.mark.skipif(not can_render(), reason='needs pyvista: pip install "multipyro[render]"')

SHARD = 5
SETS = {"two-objects": module.SceneSet(2, False, (20, 10, 10)), "one-object": module.SceneSet(1, True, (20, 5, 5))}


class Painter:
    """Stands for the renderer: an image of one color that the scene determines."""

    versions = "none"

    def __init__(self, size):
        self.size = size

    def draw(self, scene):
        """A image."""
        color = np.abs(np.array(scene.objects[0].position)) * 50
        return np.broadcast_to(color[:, None, None], (3, self.size, self.size)).astype(np.uint8)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The download folder; small sets, five scenes to a file, no data folders."""
    monkeypatch.setattr(module, "_SETS", SETS)
    monkeypatch.setattr(module, "SHARD", SHARD)
    # pyvista imports matplotlib, which would list all fonts anew in another folder
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    return fake_mnist.no_data(monkeypatch, tmp_path)


@pytest.fixture
def painted(small, monkeypatch):
    """The files that are written, by a painter in this process and without pyvista."""
    written = []

    def render(recipe, numbers, processes):
        for number in numbers:
            arrays = render_jobs._arrays(recipe, number, Painter(recipe.size))
            header = {"recipe": np.array(recipe.header(number))}
            path = small / recipe.name(number)
            write_atomically(path, lambda file, parts=(header | arrays): np.savez_compressed(file, **parts))
            written.append(path)

    monkeypatch.setattr(render_jobs, "_render", render)
    return written


def test_two_objects(painted):
    splits = load_dataset("two-objects", size=32)
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [20, 10, 10]
    assert len(painted) == 8
    first = 0
    for name in splits.NAMES:
        part = getattr(splits, name)
        assert part.x["image"].shape[1:] == (3, 32, 32)
        assert part.x["image"].dtype == torch.uint8
        assert part.labels is None
        assert part.options == {"seed": 0, "size": 32, "num_rows": None, "likelihood": "beta"}
        texts = part.modalities["text"].decode(part.x["text"])
        for index, text in enumerate(texts, first):
            scene = draw_scene(0, index)
            assert tuple(text.split()) == sentence(scene, 0, index)
            assert np.array_equal(part.x["image"][index - first], Painter(32).draw(scene))
        first += len(part)
    batch, observed = next(iter(splits.train.batches(4)))
    assert observed is None
    assert batch["image"].dtype == torch.float32
    assert batch["image"].max() <= 1


def test_one_object(painted):
    splits = load_dataset("one-object", size=32)
    assert [len(getattr(splits, name)) for name in splits.NAMES] == [20, 5, 5]
    text = splits.train.modalities["text"]
    assert splits.train.modalities["image"].likelihood == "beta"
    assert load_scenes("one-object", size=32, likelihood="laplace").train.modalities["image"].likelihood == "laplace"
    assert text.vocabulary == ("small", "large", "red", "blue", "metal", "sphere")
    assert text.decode(splits.train.x["text"]) == [text.class_names[label] for label in splits.train.labels]
    assert splits.train.labels.unique().tolist() == [0, 1, 2, 3]


def test_a_larger_set_holds_the_smaller_one(painted):
    small = load_scenes("two-objects", size=32, num_rows=7)
    assert [len(getattr(small, name)) for name in small.NAMES] == [7, 7, 7]
    assert len(painted) == 6
    large = load_scenes("two-objects", size=32)
    assert len(painted) == 8
    for name in small.NAMES:
        for modality in ("image", "text"):
            assert torch.equal(getattr(small, name).x[modality], getattr(large, name).x[modality][:7])


def test_what_is_there_is_not_rendered_again_and_other_recipes_are_other_files(painted):
    first = load_scenes("two-objects", size=32, num_rows=5)
    written = len(painted)
    assert load_scenes("two-objects", size=32, num_rows=5).train.content_hash == first.train.content_hash
    assert len(painted) == written
    hashes = {first.train.content_hash}
    for options in ({"seed": 1}, {"size": 33}):
        hashes.add(load_scenes("two-objects", num_rows=5, **{"size": 32, **options}).train.content_hash)
    assert len(hashes) == 3
    load_scenes("one-object", size=32, num_rows=5)
    assert len(painted) == len(set(painted)) == 4 * written


def test_files_in_a_data_root_are_read(painted, small, tmp_path, monkeypatch):
    first = load_scenes("two-objects", size=32)
    (small / "TwoObjects").rename(tmp_path / "TwoObjects")
    painted.clear()
    assert load_scenes("two-objects", tmp_path, size=32).test.content_hash == first.test.content_hash
    monkeypatch.setenv("MULTIPYRO_DATA", str(tmp_path))
    assert load_scenes("two-objects", size=32).test.content_hash == first.test.content_hash
    assert painted == []


def half(path):
    """Truncate a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    """Change a byte of the images."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def foreign(path):
    """The file of other scenes."""
    path.write_bytes((path.parent / "00001.npz").read_bytes())


class Code:
    """Something whose loading runs code."""

    def __reduce__(self):
        return pytest.fail, ("the file has run code",)


def with_code(path):
    """A file that would run code."""
    with open(path, "wb") as file:
        np.savez(file, recipe=np.array(Code(), dtype=object))


@pytest.mark.parametrize("damage", [half, flipped, foreign, with_code])
def test_damaged_files_are_rendered_again(painted, damage):
    first = load_scenes("two-objects", size=32)
    damage(painted[0])
    with pytest.warns(UserWarning, match=f"{painted[0]} is damaged .* rendered again"):
        assert load_scenes("two-objects", size=32).train.content_hash == first.train.content_hash
    assert load_scenes("two-objects", size=32).train.content_hash == first.train.content_hash
    assert len(painted) == 9


def test_the_arrays_of_scenes(painted):
    fields = ("image", "text", "attributes", "position", "rotation", "pixel", "camera", "lights")
    found = scene_arrays("two-objects", "validation", fields, size=32, num_rows=8)
    shapes = [(3, 32, 32), (9,), (2, 4), (2, 3), (2,), (2, 3), (3,), (4, 3)]
    assert [values.shape for values in found.values()] == [(8, *shape) for shape in shapes]
    attributes = (tuple(SIZES), tuple(COLORS), MATERIALS, SHAPES)
    for row in range(8):
        scene = draw_scene(0, 20 + row)
        words = tuple(WORDS[number] for number in found["text"][row])
        assert sentence_is_true(words, scene)
        for number, thing in enumerate(scene.objects):
            ids = found["attributes"][row, number]
            assert tuple(names[i] for names, i in zip(attributes, ids, strict=True)) == thing.words
            assert tuple(found["position"][row, number]) == thing.position
            np.testing.assert_allclose(
                found["pixel"][row, number], scene.project(np.array(thing.position)) * (32, 32, 1)
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 31}, "size must be a whole number from 32 on, got 31"),
        ({"size": 513}, "size must be at most 512, got 513"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
        ({"num_rows": 0}, "num_rows must be a whole number from 1 on, or None, got 0"),
        ({"processes": 1.0}, "processes must be a whole number from 1 on, or None, got 1.0"),
        ({"size": None}, "size must be a whole number from 32 on, got None"),
    ],
)
def test_options_out_of_range(painted, options, message):
    with pytest.raises(ValueError, match=message):
        load_scenes("two-objects", **options)
    assert painted == []


def test_what_is_said_to_be_missing(painted, monkeypatch):
    monkeypatch.setattr(module, "can_render", lambda: True)
    assert module.scenes_missing("two-objects") == "0 of 40 scenes are rendered; the others will be at first use"
    load_scenes("two-objects", num_rows=5)
    assert module.scenes_missing("two-objects").startswith("15 of 40 scenes are rendered")
    monkeypatch.setattr(module, "can_render", lambda: False)
    assert 'pip install "multipyro[render]"' in module.scenes_missing("two-objects")
    load_scenes("two-objects")
    assert module.scenes_missing("two-objects") == ""


def test_without_pyvista_an_error_says_what_to_install(small, monkeypatch):
    monkeypatch.setattr(render_jobs, "can_render", lambda: False)
    with pytest.raises(ImportError, match=r'30 scenes are not rendered .*pip install "multipyro\[render\]"'):
        load_scenes("one-object", size=32)
    monkeypatch.setitem(sys.modules, "pyvista", None)
    assert "pyvista" not in vars(renderer)
    with pytest.raises(ImportError, match=r'pip install "multipyro\[render\]"'):
        renderer.Renderer(32)


def test_a_worker_that_fails_says_why(small, monkeypatch):
    monkeypatch.setattr(render_jobs, "can_render", lambda: True)
    monkeypatch.setattr(render_jobs, "_WORKER", "raise SystemExit('no display')")
    with pytest.raises(RuntimeError, match="rendering failed with exit status 1.*: no display"):
        render_jobs._render(SceneRecipe(1, True, 32, 0, 1), [0], 1)


def test_a_run_that_ends_early_goes_on(painted, monkeypatch):
    render = render_jobs._render

    def interrupted(recipe, numbers, processes):
        render(recipe, numbers[:3], processes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(render_jobs, "_render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_scenes("two-objects", size=32)
    assert len(painted) == 3
    load_scenes("two-objects", size=32)
    assert len(painted) == len(set(painted)) == 8


PAINTER = """
import sys, types
import numpy as np

class Renderer:
    versions = "none"

    def __init__(self, size):
        self.size = size

    def draw(self, scene):
        color = np.abs(np.array(scene.objects[0].position)) * 50
        return np.broadcast_to(color[:, None, None], (3, self.size, self.size)).astype(np.uint8)

sys.modules["multipyro.data.scenes.renderer"] = types.SimpleNamespace(Renderer=Renderer)
from multipyro.data.scenes.render_jobs import render_worker
render_worker()
"""


def test_worker_processes_write_what_one_process_does(small, monkeypatch, capfd):
    monkeypatch.setattr(render_jobs, "can_render", lambda: True)
    monkeypatch.setattr(render_jobs, "_WORKER", PAINTER)
    splits = load_scenes("two-objects", size=32, num_rows=5, processes=2)
    assert "15/15" in capfd.readouterr().err
    for name, first in (("train", 0), ("validation", 20), ("test", 30)):
        wanted = np.stack([Painter(32).draw(draw_scene(0, first + row)) for row in range(5)])
        assert np.array_equal(getattr(splits, name).x["image"], wanted)
    assert len(list((small / "TwoObjects").rglob("*"))) == 4


BACKGROUND = """
module.SHARD, module._SETS = {shard}, {{"two-objects": module.SceneSet(2, False, (20, 10, 10))}}
module.two_objects(size=32, processes=2)
"""


@pytest.mark.slow
@needs_pyvista
def test_a_killed_run_goes_on_and_processes_do_not_matter(small, monkeypatch):
    code = BACKGROUND.format(shard=SHARD)
    killed = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    folder, until = small / "TwoObjects" / "v1-2-any-32px-seed0", time.monotonic() + 120
    while not list(folder.glob("[0-9]*.npz")) and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # workers end when nobody reads what they say
    while time.monotonic() < until:
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.npz")}
        time.sleep(0.5)
        if set(os.listdir(folder)) == set(before):
            break
    assert before
    interrupted = load_scenes("two-objects", size=32, processes=1)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(after) == 8
    assert before.items() <= after.items()
    monkeypatch.setenv("XDG_CACHE_HOME", str(small.parent / "again"))
    whole = load_scenes("two-objects", size=32, processes=2)
    for name in whole.NAMES:
        assert getattr(whole, name).content_hash == getattr(interrupted, name).content_hash


@pytest.fixture(scope="module")
def pictures():
    """Scenes, and their images by the real renderer, made in the order of their numbers and in the other one."""
    code = """
import json, sys, numpy
from multipyro.data.scenes.renderer import Renderer
from multipyro.data.scenes.composition import draw_scene
renderer = Renderer(56)
scenes = [draw_scene(0, index) for index in range(24)]
first = [renderer.draw(scene) for scene in scenes]
again = [renderer.draw(scene) for scene in scenes[::-1]][::-1]
print(json.dumps([numpy.array(first).tolist(), numpy.array(again).tolist()]))
"""
    # a process of its own: warnings of a graphics driver are no errors of ours
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, again = json.loads(done.stdout.splitlines()[-1])
    return np.array(first, np.uint8), np.array(again, np.uint8)


@needs_pyvista
def test_a_image_does_not_depend_on_what_was_drawn_before(pictures):
    assert np.array_equal(*pictures)
    assert len({picture.tobytes() for picture in pictures[0]}) == 24


@needs_pyvista
def test_images_show_each_object_in_its_place_and_color(pictures):
    for index, picture in enumerate(pictures[0]):
        scene = draw_scene(0, index)
        for thing in scene.objects:
            x, y, _ = scene.project(np.array(thing.position)) * 56
            patch = picture[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(3, -1).mean(1)
            wanted = np.array(COLORS[thing.color], float)
            if thing.color == "gray":
                assert np.ptp(patch) < 8
                continue
            # the same hue, whatever the light
            found, wanted = patch - patch.mean(), wanted - wanted.mean()
            assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.93, (index, thing, patch)


@needs_pyvista
def test_the_ground_is_plain_and_nothing_is_black(pictures):
    images = pictures[0].astype(float)
    # the corners are ground: gray, neither black nor white
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.ptp(corners, axis=1).max() <= 1
    assert 50 < corners.min() < corners.max() < 240
    for index, picture in enumerate(images):
        scene = draw_scene(0, index)
        for thing in scene.objects:
            x, y, _ = scene.project(np.array(thing.position)) * 56
            assert picture[:, int(y), int(x)].max() > 35, (index, thing)
