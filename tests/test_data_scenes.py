"""Scenes without their images: positions, sentences, light on the ground, surfaces of shapes."""

import itertools

import numpy as np
import pytest

from multipyro.data.scenes.composition import (
    COLORS,
    LIGHTS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    SceneObject,
    draw_scene,
    sentence,
    sentence_is_true,
)
from multipyro.data.scenes.meshes import shapes
from multipyro.data.scenes.shadows import ground

SCENES = [draw_scene(0, index) for index in range(200)]
SINGLE = [draw_scene(0, index, num_objects=1, simple=True) for index in range(100)]
CAMERA = (0.0, -10.0, 5.0)


def place(*positions, shape="sphere", rotation=0.0, camera=CAMERA):
    """A scene of small red rubber objects at ground positions."""
    objects = tuple(SceneObject("small", "red", "rubber", shape, (*xy, 0.35), rotation) for xy in positions)
    return Scene(objects, camera, tuple(map(tuple, LIGHTS)))


@pytest.mark.parametrize(
    ("first", "second", "true"),
    [
        ((1, 1), (0, 0), {"right", "behind"}),
        ((-1, 1), (0, 0), {"left", "behind"}),
        ((1, -1), (0, 0), {"right", "front"}),
        ((-1, -1), (0, 0), {"left", "front"}),
        ((1, 0.1), (0, 0), {"right"}),
        ((0.1, -1), (0, 0), {"front"}),
    ],
)
def test_relations_of_a_camera_that_looks_along_y(first, second, true):
    scene = place(first, second)
    assert set(scene.relations(0, 1)) == true
    opposite = {"right": "left", "left": "right", "front": "behind", "behind": "front"}
    assert set(scene.relations(1, 0)) == {opposite[word] for word in true}


def test_relations_turn_with_the_camera():
    # from the other side right becomes left and front becomes behind
    assert set(place((1, 1), (0, 0), camera=(0.0, 10.0, 5.0)).relations(0, 1)) == {"left", "front"}
    assert set(place((1, 1), (0, 0), camera=(10.0, 0.0, 5.0)).relations(0, 1)) == {"right", "front"}


def test_directions_are_level_and_orthogonal_whatever_the_camera():
    for scene in SCENES[:20]:
        vectors = np.stack([scene.directions()[word] for word in ("right", "behind")])
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
        assert (vectors[:, 2] == 0).all()
        # behind is away from the camera
        assert vectors[1] @ np.asarray(scene.camera) < 0


def test_right_is_right_in_the_image_and_front_is_near():
    scene = place((0, 0), (1, 0), (0, -1), (0, 0))
    x, y, depth = scene.project(np.array([thing.position for thing in scene.objects])).T
    assert x[1] > x[0]
    assert y[2] > y[0]
    assert depth[2] < depth[0]
    middle = scene.project(scene.focus())
    np.testing.assert_allclose(middle[:2], 0.5)
    assert middle[2] == pytest.approx(np.linalg.norm(np.asarray(CAMERA) - scene.focus()))


def test_rays_hit_the_pixels_that_points_are_projected_to():
    scene, size = SCENES[3], 16
    points = np.asarray(scene.camera) + 7 * scene.rays(size)
    x, y = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    np.testing.assert_allclose(scene.project(points)[..., :2], np.stack([x, y], -1), atol=1e-12)


def test_a_scene_depends_on_its_seed_and_number_alone():
    assert draw_scene(0, 5) == SCENES[5]
    assert len({scene.objects for scene in SCENES}) == len(SCENES)
    assert draw_scene(1, 5).objects != SCENES[5].objects
    assert sentence(SCENES[5], 0, 5) == sentence(draw_scene(0, 5), 0, 5)


@pytest.mark.parametrize("number", [0, 3])
def test_a_scene_has_one_object_or_two(number):
    with pytest.raises(ValueError, match="num_objects must be 1 or 2, got"):
        draw_scene(0, 0, num_objects=number)


def surface(thing):
    """Points of an object's surface."""
    matrix = thing.to_world()
    return shapes()[thing.shape][0] @ matrix[:3, :3].T + matrix[:3, 3]


def test_objects_stand_on_the_ground_inside_the_image():
    for scene in SCENES[:60]:
        for thing in scene.objects:
            points = surface(thing)
            assert points[:, 2].min() == pytest.approx(0, abs=1e-6)
            seen = scene.project(points)[:, :2]
            assert 0.02 < seen.min()
            assert seen.max() < 0.98


def test_two_objects_stand_apart():
    for scene in SCENES:
        first, second = scene.objects
        apart = np.subtract(first.position, second.position)
        assert all(abs(apart @ vector) >= 0.4 for vector in scene.directions().values())
    for scene in SCENES[:60]:
        first, second = (surface(thing)[::3] for thing in scene.objects)
        assert np.linalg.norm(first[:, None] - second[None], axis=-1).min() > 0.2


def covered(scene, thing, size=48):
    """Pixels in which points of an object's surface are seen if nothing is before them."""
    seen = scene.project(surface(thing))[:, :2] * size
    cells = set(map(tuple, np.floor(seen).astype(int)))
    assert cells
    return cells


def test_neither_object_hides_the_other():
    shared = [len(covered(s, s.objects[0]) & covered(s, s.objects[1])) for s in SCENES[:100]]
    # a pixel on the line between them at most
    assert max(shared) <= 2


def test_outlines_contain_the_surfaces():
    for shape, rotation in itertools.product(SHAPES, (0.0, 33.0)):
        thing = place((1, 2), shape=shape, rotation=rotation).objects[0]
        lines = np.random.default_rng(0).normal(size=(3, 200))
        reach, hull = (surface(thing) @ lines).max(0), (thing.outline() @ lines).max(0)
        assert (reach <= hull + 1e-6).all()
        assert (hull - reach).max() < 0.35


def test_attributes_are_drawn_alike():
    things = [thing for index in range(600) for thing in draw_scene(3, index).objects]
    for words, values in zip(
        zip(*(thing.words for thing in things), strict=True), (SIZES, COLORS, MATERIALS, SHAPES), strict=True
    ):
        share = 1 / len(values)
        deviation = np.sqrt(share * (1 - share) / len(things))
        for value in values:
            assert abs(words.count(value) / len(things) - share) < 4 * deviation, value


def test_simple_scenes():
    words = [sentence(scene, 0, 0) for scene in SINGLE]
    assert set(words) == {(size, color, "metal", "sphere") for size in SIZES for color in ("red", "blue")}
    assert len({scene.objects[0].position for scene in SINGLE}) == len(SINGLE)
    assert all(sentence_is_true(text, scene) for text, scene in zip(words, SINGLE, strict=True))


def test_sentences_are_true_by_the_coordinates():
    for index, scene in enumerate(SCENES):
        words = sentence(scene, 0, index)
        assert len(words) == 9
        assert sentence_is_true(words, scene)
        order = [thing for told in (words[:4], words[5:]) for thing in scene.objects if thing.words == told]
        if scene.objects[0].words == scene.objects[1].words:
            continue
        # from what is seen alone: the camera is level, so right is further right in the image of the ground
        (x, y, _), (u, v, _) = (scene.project(np.array([*thing.position[:2], 0.0])) for thing in order)
        seen = {"right": x > u, "left": x < u, "front": y > v, "behind": y < v}
        if words[4] in ("front", "behind") or abs(x - u) > 0.1:
            assert seen[words[4]]


def test_order_and_relation_are_drawn_alike():
    first, told = 0, []
    for index, scene in enumerate(SCENES):
        words = sentence(scene, 0, index)
        first += words[:4] == scene.objects[0].words
        told.append(words[4])
    rows = len(SCENES)
    assert abs(first / rows - 0.5) < 4 * 0.5 / np.sqrt(rows)
    across = sum(word in ("left", "right") for word in told) / rows
    assert abs(across - 0.5) < 4 * 0.5 / np.sqrt(rows)
    assert set(told) == set(RELATIONS)


@pytest.mark.parametrize("position", range(9))
def test_a_wrong_word_is_found(position):
    scene = next(s for s in SCENES if s.objects[0].words != s.objects[1].words)
    words = list(sentence(scene, 0, SCENES.index(scene)))
    groups = (tuple(SIZES), tuple(COLORS), MATERIALS, SHAPES)
    group = RELATIONS if position == 4 else groups[position if position < 4 else position - 5]
    other = {"right": "left", "left": "right", "front": "behind", "behind": "front"}
    words[position] = other[words[4]] if position == 4 else next(word for word in group if word != words[position])
    assert not sentence_is_true(tuple(words), scene)
    assert not sentence_is_true(tuple(words[:8]), scene)


def test_the_nineteen_words():
    assert len(WORDS) == len(set(WORDS)) == 19


@pytest.mark.parametrize("shape", SHAPES)
def test_surfaces_have_unit_normals_outwards_and_fill_the_unit_cube(shape):
    points, normals, quads = shapes()[shape]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    np.testing.assert_allclose([points.min(0), points.max(0)], [[-1] * 3, [1] * 3], atol=1e-6)
    # a normal of a convex shape never points toward its middle
    assert ((points * normals).sum(1) > 0).all()
    corners = points[quads]
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    area = np.linalg.norm(across, axis=1) / 2
    assert ((across * normals[quads].mean(1)).sum(1) >= 0).all()
    below = {"sphere": 0, "cylinder": np.pi, "cube": 4}[shape]
    whole = {"sphere": 4 * np.pi, "cylinder": 6 * np.pi, "cube": 24}[shape]
    # rounded edges take a little away
    assert 0.96 * (whole - below) < area.sum() <= whole - below


def free(scene):
    """The same camera and lamps over empty ground."""
    return Scene((), scene.camera, scene.lights)


@pytest.mark.parametrize("shape", SHAPES)
def test_shadows_lie_where_an_object_keeps_the_light_away(shape):
    size, lamps = 48, tuple((3.0, 0.0, 6.0 + 0.01 * number) for number in range(4))
    thing = SceneObject("large", "red", "rubber", shape, (0.0, 0.0, 0.7), 20.0)
    scene = Scene((thing,), CAMERA, lamps)
    share = ground(scene, size) / ground(free(scene), size)
    rays, camera = scene.rays(size), np.asarray(CAMERA)
    points = camera - rays * (camera[2] / rays[..., 2:])
    outside = np.hypot(points[..., 0], points[..., 1]) > 1.1
    assert share[outside].max() <= 1 + 1e-6
    dark = outside & (share < 0.5)
    assert dark.any()
    # the lamps stand to the right, so shadows reach to the left; the longest ends where the highest point is projected
    assert (points[dark][:, 0] < 0).all()
    assert points[dark][:, 0].min() > -3.0
    np.testing.assert_allclose(share[outside & (points[..., 0] > 3)], 1, atol=0.02)


def test_shadows_are_as_a_slow_count_of_rays_says():
    scene, size = place((0.3, 0.2), shape="cube", rotation=30.0), 24
    from multipyro.data.scenes import shadows

    points = np.array([[0.9, -0.2, 0.0], [-0.4, 0.6, 0.0], [0.3, 0.9, 0.0], [-0.6, 0.3, 0.0], [5.0, 5.0, 0.0]]).T
    lamp = np.asarray(LIGHTS[2])[:, None] + 0.5 * shadows._BALL
    found = shadows._visible(scene, points.astype(np.float32), lamp)
    matrix = np.linalg.inv(scene.objects[0].to_world())
    steps = np.linspace(0, 0.5, 4000)
    wanted = []
    for point in points.T:
        free_rays = 0
        for sample in lamp.T:
            along = point + steps[:, None] * (sample - point)
            inner = np.abs(along @ matrix[:3, :3].T + matrix[:3, 3]).max(1)
            free_rays += inner.min() > 1
        wanted.append(free_rays / lamp.shape[1])
    np.testing.assert_allclose(found, wanted, atol=1.01 / lamp.shape[1])
    assert min(wanted) < 0.5
    assert max(wanted) == 1
    assert ground(scene, size).shape == (size, size)
