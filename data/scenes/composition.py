"""Scenes of one or two simple objects and their descriptions: geometry, camera, relations, sentences. No rendering.

Lengths are in CLEVR's units: the ground is the plane z = 0, a large object has radius 0.7 and stands on it. The camera
looks down at the center of the ground from one corner, so the right and the depth of an image are not axes of the
ground.
"""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "COLORS",
    "LIGHTS",
    "MATERIALS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "WORDS",
    "Scene",
    "SceneObject",
    "draw_scene",
    "sentence",
    "sentence_is_true",
]

#: Word -> radius: of a sphere and of a cylinder; half the side of a cube, half the height of a cylinder.
SIZES = {"small": 0.35, "large": 0.7}
#: Word -> the eight RGB values of CLEVR.
COLORS = {
    "cyan": (41, 208, 208),
    "red": (173, 35, 35),
    "gray": (87, 87, 87),
    "blue": (42, 75, 215),
    "yellow": (255, 238, 51),
    "purple": (129, 38, 192),
    "brown": (129, 74, 25),
    "green": (29, 105, 20),
}
MATERIALS = ("rubber", "metal")
SHAPES = ("sphere", "cylinder", "cube")
RELATIONS = ("right", "left", "front", "behind")
#: The 19 words of all sentences, in the order of their class ids.
WORDS = (*SIZES, *COLORS, *MATERIALS, *SHAPES, *RELATIONS)
#: Positions of the sun and of the lamps behind, in front of and beside the scene, without jitter.
LIGHTS = np.array([(11.66, -6.63, 25.82), (-1.17, 2.65, 5.82), (6.45, -2.91, 4.26), (-4.67, -4.01, 3.01)])

_CAMERA = np.array((7.48, -6.51, 5.34))
_TARGET = np.array((0.0, 0.0, 0.35))
# field of view in degrees; CLEVR's 49 on 320 pixels would make objects tiny on 112
_VIEW = 33.0
_CAMERA_JITTER, _LIGHT_JITTER = 0.5, 1.0
# as in CLEVR: half the side of the square of the centers, their distance along each relation, distance of surfaces
_REACH, _MARGIN, _DISTANCE = 3.0, 0.4, 0.25
# fractions of the image that stay free beside an object and between two
_FRAME, _GAP = 0.03, 0.01


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        size: A key of `SIZES`.
        color: A key of `COLORS`.
        material: One of `MATERIALS`.
        shape: One of `SHAPES`.
        position: Its center `(x, y, z)`; z is the radius.
        rotation: Degrees about the vertical axis.

    Example:
        >>> SceneObject("large", "red", "metal", "cube", (0.0, 1.0, 0.7), 30.0).words
        ('large', 'red', 'metal', 'cube')
    """

    size: str
    color: str
    material: str
    shape: str
    position: tuple[float, float, float]
    rotation: float

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Size, color, material and shape."""
        return self.size, self.color, self.material, self.shape

    @property
    def radius(self) -> float:
        """The radius of the size."""
        return SIZES[self.size]

    def to_world(self) -> np.ndarray:
        """The matrix `(4, 4)` that maps the unit shape, which extends from -1 to 1 along each axis, to the object."""
        angle = np.radians(self.rotation)
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix[:3, :3] *= self.radius
        matrix[:3, 3] = self.position
        return matrix

    def outline(self) -> np.ndarray:
        """Points `(points, 3)` whose convex hull contains the object."""
        points = _HULLS[self.shape]
        matrix = self.to_world()
        return points @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True)
class Scene:
    """Objects on the ground, a camera that looks at its center, and lamps.

    Args:
        objects: One object or two.
        camera: Position of the camera `(x, y, z)`.
        lights: Positions of the lamps `(4, 3)`, in the order of `LIGHTS`.
    """

    objects: tuple[SceneObject, ...]
    camera: tuple[float, float, float]
    lights: tuple[tuple[float, float, float], ...]

    def axes(self) -> np.ndarray:
        """The camera's right, its up and the direction in which it looks, unit rows of `(3, 3)`."""
        return _axes(np.asarray(self.camera))

    def directions(self) -> dict[str, np.ndarray]:
        r"""The unit vector of each relation: the directions of the camera, projected onto the ground.

        References:
            CLEVR (Johnson et al., 2017), section 3.1: left is the projection of the camera's left onto the ground,
            behind that of the viewing direction.
        """
        return _directions(self.axes())

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points `(..., 3)` appear `(..., 3)`: x rightwards, y downwards in fractions of the image, depth."""
        return _project(np.asarray(self.camera), self.axes(), points)

    def rays(self, size: int) -> np.ndarray:
        """Viewing directions `(size, size, 3)` of the centers of the pixels, rows from the top."""
        right, up, ahead = self.axes()
        offset = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.radians(_VIEW / 2))
        return ahead + offset[None, :, None] * right - offset[:, None, None] * up

    def view_angle(self) -> float:
        """Degrees between the lower and the upper edge of the image."""
        return _VIEW

    def focus(self) -> np.ndarray:
        """The point `(3,)` in the center of the image."""
        return _TARGET

    def relations(self, first: int, second: int) -> tuple[str, ...]:
        """The relations that hold: `first` is right (left, in front, behind) of `second`.

        A relation holds if the distance along its direction exceeds half the minimum distance that the objects of a
        scene have along every direction, which is CLEVR's rule.
        """
        centers = [np.asarray(self.objects[number].position) for number in (first, second)]
        along = {word: (centers[0] - centers[1]) @ vector for word, vector in self.directions().items()}
        return tuple(word for word in RELATIONS if along[word] > _MARGIN / 2)


def draw_scene(seed: int, index: int, num_objects: int = 2, simple: bool = False) -> Scene:
    """Samples the scene with number `index`, which depends on the arguments alone.

    Two objects are apart in space and in the image: neither occludes any part of the other or leaves the image. Along
    both directions of the relations their centers are at least 0.4 apart, so exactly two relations hold.

    Args:
        seed: Seed of the data set, at least 0.
        index: Number of the scene, at least 0.
        num_objects: One or two.
        simple: Whether every object is a red or blue metal sphere.

    Returns:
        The scene.

    Example:
        >>> scene = draw_scene(seed=0, index=5)
        >>> len(scene.objects), len(scene.relations(0, 1))
        (2, 2)
    """
    if num_objects not in (1, 2):
        raise ValueError(f"num_objects must be 1 or 2, got {num_objects!r}")
    generator = np.random.default_rng([seed, index])
    camera = _CAMERA + generator.uniform(-_CAMERA_JITTER, _CAMERA_JITTER, 3)
    lights = LIGHTS + generator.uniform(-_LIGHT_JITTER, _LIGHT_JITTER, LIGHTS.shape)
    kinds = [_kind(generator, simple) for _ in range(num_objects)]
    axes = _axes(camera)
    while True:
        objects = []
        for words in kinds:
            x, y = generator.uniform(-_REACH, _REACH, 2)
            objects.append(SceneObject(*words, (float(x), float(y), SIZES[words[0]]), float(generator.uniform(0, 360))))
        if _are_apart(objects, camera, axes):
            lights = tuple(tuple(map(float, light)) for light in lights)
            return Scene(tuple(objects), tuple(map(float, camera)), lights)


def sentence(scene: Scene, seed: int, index: int) -> tuple[str, ...]:
    """Describes a scene: one object by its four words, two by `size color material shape relation size color ...`.

    Which object comes first and which of the true relations is named is drawn at random, from the seed and the index.
    The relation is that of the first object to the second: `right` means that the first is further right.

    Args:
        scene: The scene.
        seed: Seed of the data set.
        index: Number of the scene.

    Returns:
        Four or nine words.

    Example:
        >>> " ".join(sentence(draw_scene(0, 5), 0, 5))
        'small green rubber cube left small purple rubber cube'
    """
    if len(scene.objects) == 1:
        return scene.objects[0].words
    generator = np.random.default_rng([seed, index, 1])  # another stream than that of the scene
    first = int(generator.integers(2))
    true = scene.relations(first, 1 - first)
    relation = true[generator.integers(len(true))]
    return (*scene.objects[first].words, relation, *scene.objects[1 - first].words)


def sentence_is_true(words: tuple[str, ...], scene: Scene) -> bool:
    """Whether every word of a sentence of four or nine words is true of a scene, with its objects in any order.

    Args:
        words: The sentence.
        scene: The scene.

    Returns:
        True if all words are true for some order of the objects.

    Example:
        >>> scene = draw_scene(0, 5, num_objects=1)
        >>> sentence_is_true(sentence(scene, 0, 5), scene), sentence_is_true(("large", "red", "metal"), scene)
        (True, False)
    """
    objects = scene.objects
    if len(objects) == 1:
        return tuple(words) == objects[0].words
    return len(words) == 9 and any(
        tuple(words[:4]) == objects[first].words
        and tuple(words[5:]) == objects[1 - first].words
        and words[4] in scene.relations(first, 1 - first)
        for first in (0, 1)
    )


def _kind(generator: np.random.Generator, simple: bool) -> tuple[str, str, str, str]:
    choices = (tuple(SIZES), ("red", "blue"), ("metal",), ("sphere",)) if simple else _ATTRIBUTES
    return tuple(words[generator.integers(len(words))] for words in choices)


_ATTRIBUTES = (tuple(SIZES), tuple(COLORS), MATERIALS, SHAPES)


def _axes(camera: np.ndarray) -> np.ndarray:
    ahead = (_TARGET - camera) / np.linalg.norm(_TARGET - camera)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, ahead), ahead])


def _directions(axes: np.ndarray) -> dict[str, np.ndarray]:
    right, _, ahead = axes * (1.0, 1.0, 0.0)
    right, ahead = right / np.linalg.norm(right), ahead / np.linalg.norm(ahead)
    return {"right": right, "left": -right, "front": -ahead, "behind": ahead}


def _project(camera: np.ndarray, axes: np.ndarray, points: np.ndarray) -> np.ndarray:
    right, up, depth = np.moveaxis((points - camera) @ axes.T, -1, 0)
    scale = 2 * depth * np.tan(np.radians(_VIEW / 2))  # width of the image at this depth
    return np.stack([0.5 + right / scale, 0.5 - up / scale, depth], -1)


def _are_apart(objects: list[SceneObject], camera: np.ndarray, axes: np.ndarray) -> bool:
    """Whether all are inside the image and two are apart, on the ground and in the image."""
    if len(objects) == 2:
        first, second = objects
        apart = np.subtract(first.position, second.position)[:2]
        reach = sum(item.radius * (np.sqrt(2) if item.shape == "cube" else 1) for item in objects)
        if np.hypot(*apart) < reach + _DISTANCE:
            return False
        vectors = _directions(axes)
        if any(abs(apart @ vectors[word][:2]) < _MARGIN for word in ("right", "behind")):
            return False
    outlines = [_project(camera, axes, item.outline())[:, :2] for item in objects]
    if any(points.min() < _FRAME or points.max() > 1 - _FRAME for points in outlines):
        return False
    if len(objects) == 1:
        return True
    # hulls that a line separates do not overlap; lines of 32 directions are tried
    spans = [points @ _LINES for points in outlines]  # (points, lines)
    gaps = [spans[0].min(0) - spans[1].max(0), spans[1].min(0) - spans[0].max(0)]
    return bool(np.max(gaps) > _GAP)


_LINES = np.stack([np.cos(np.arange(32) * np.pi / 32), np.sin(np.arange(32) * np.pi / 32)])


def _hulls() -> dict[str, np.ndarray]:
    """Points around each unit shape: rings slightly wider than it, so that the hull of their corners contains it."""
    turn = np.arange(24) * 2 * np.pi / 24
    ring = np.stack([np.cos(turn), np.sin(turn)], -1) / np.cos(np.pi / 24)
    heights = np.array([-1.0, 1.0])
    cylinder = np.concatenate([np.column_stack([ring, np.full(24, z)]) for z in heights])
    # between two rings of a sphere, and at its poles, a polygon around the meridian contains it
    tilts = (np.arange(12) + 0.5) * np.pi / 12 - np.pi / 2
    wide = 1 / np.cos(np.pi / 24)
    sphere = np.concatenate(
        [np.column_stack([ring * np.cos(tilt), np.full(24, np.sin(tilt))]) * wide for tilt in tilts]
    )
    cube = np.stack(np.meshgrid(heights, heights, heights), -1).reshape(-1, 3)
    return {"sphere": sphere, "cylinder": cylinder, "cube": cube}


_HULLS = _hulls()
