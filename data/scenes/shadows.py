"""Light on the ground of a scene, from extended lamps with soft shadows and a dim sky. Without pyvista."""

import numpy as np

from multipyro.data.scenes.composition import LIGHTS, Scene, SceneObject

__all__ = ["DISTANCES", "POWERS", "SKY", "ground"]

#: Light that reaches the center of the ground from each lamp of `LIGHTS` and from the sky; together 1.
POWERS = np.array([0.38, 0.10, 0.33, 0.10])
SKY = 0.09
#: Distances at which the lamps have that power.
DISTANCES = np.linalg.norm(LIGHTS, axis=1)
# radii of the lamps: the larger the radius, the softer the shadows
_RADII = np.array([2.2, 0.7, 0.5, 0.7])
_LAMP_SAMPLES, _SKY_SAMPLES = 16, 24
# fraction of the light that the ground reflects
_ALBEDO = 0.31
# distance from which the ground beside an object is lit, in units of its radius
_EDGE = 1.03
# an object farther away than so many of its radii occludes almost nothing of the sky
_NEAR = 2.5


def ground(scene: Scene, size: int) -> np.ndarray:
    """Brightness of the ground at every pixel `(size, size)`, linear, with shadows but without the objects."""
    rays = scene.rays(size).reshape(-1, 3).T
    camera = np.asarray(scene.camera)[:, None]
    points = (camera - rays * (camera[2] / rays[2])).astype(np.float32)  # where rays meet z = 0: (3, pixels)
    for item in scene.objects:
        points = _outside(item, points)
    light = SKY * _visible(scene, points, _NEAR * 10 * _HEMISPHERE, everywhere=True)
    for lamp, power, distance, radius in zip(np.array(scene.lights), POWERS, DISTANCES, _RADII, strict=True):
        x, y, z = lamp.astype(np.float32)[:, None] - points
        far = np.sqrt(x * x + y * y + z * z)
        # decreases with the angle and the distance, but not with its square: CLEVR's lamps are large
        strength = power * (distance / far) * (z / far) / (lamp[2] / distance)
        light += strength * _visible(scene, points, lamp[:, None] + radius * _BALL)
    return _ALBEDO * light.reshape(size, size)


def _outside(item: SceneObject, points: np.ndarray) -> np.ndarray:
    """The points, with those below an object moved to its edge, where they would be black otherwise."""
    if item.shape == "sphere":
        return points
    turn, center = item.to_world()[:2, :2].astype(np.float32), np.asarray(item.position, np.float32)[:2, None]
    inner = np.linalg.inv(turn) @ (points[:2] - center)
    reach = np.hypot(*inner) if item.shape == "cylinder" else np.abs(inner).max(0)
    scale = np.where(reach < _EDGE, _EDGE / np.maximum(reach, 1e-3), 1)
    return np.concatenate([turn @ (inner * scale) + center, points[2:]]).astype(np.float32)


def _visible(scene: Scene, points: np.ndarray, samples: np.ndarray, everywhere: bool = False) -> np.ndarray:
    """Fraction of the samples of a lamp, or of a sky in all directions, that is visible from the points."""
    hidden = np.zeros((points.shape[1], samples.shape[1]), bool)
    for item in scene.objects:
        middle = None if everywhere else samples.mean(1)
        near = np.flatnonzero(_may_hide(item, points, samples, middle))
        hidden[near] |= _hides(item, points[:, near], samples)
    return 1 - np.count_nonzero(hidden, axis=1).astype(np.float32) / samples.shape[1]


def _may_hide(item: SceneObject, points: np.ndarray, samples: np.ndarray, middle: np.ndarray | None) -> np.ndarray:
    """Points from which a ball around the object may occlude a part of the lamp."""
    ball = np.float32(np.sqrt(3) * item.radius)
    x, y, z = np.asarray(item.position, np.float32)[:, None] - points
    distance = np.sqrt(x * x + y * y + z * z)
    if middle is None:
        return distance < _NEAR * ball
    u, v, w = middle.astype(np.float32)[:, None] - points
    far = np.sqrt(u * u + v * v + w * w)
    spread = np.float32(np.linalg.norm(samples - middle[:, None], axis=0).max())
    cosine = (x * u + y * v + z * w) / (distance * far)
    angle = np.arcsin(np.minimum(ball / distance, 1)) + np.arcsin(np.minimum(spread / far, 1))
    return np.arccos(np.clip(cosine, -1, 1)) < angle


def _hides(item: SceneObject, points: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Whether an object is between each point and each sample, `(points, samples)`."""
    inverse = np.linalg.inv(item.to_world())
    turn, shift = inverse[:3, :3].astype(np.float32), inverse[:3, 3:].astype(np.float32)
    start = (turn @ points + shift)[:, :, None]
    step = (turn @ samples.astype(np.float32) + shift)[:, None] - start
    if item.shape == "cube":
        enter, leave = _between(start, step)
    elif item.shape == "sphere":
        enter, leave = _round(start, step)
    else:
        enter, leave = _round(start[:2], step[:2])
        below, above = _between(start[2:], step[2:])
        enter, leave = np.maximum(enter, below), np.minimum(leave, above)
    return (enter < leave) & (leave > 0) & (enter < 1)


def _round(start: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where lines enter and leave the unit ball of the dimension of `start`; an empty interval where they miss it."""
    a, b, c = (sum(p * q for p, q in zip(*pair, strict=True)) for pair in ((step, step), (start, step), (start, start)))
    square = b * b - a * (c - 1)
    root = np.sqrt(np.maximum(square, 0))
    # a line that touches or misses the ball has an empty interval
    return (-b - root) / a, (-b + root) / a


def _between(start: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where lines enter and leave the slabs from -1 to 1 of every axis."""
    spans = []
    for p, q in zip(start, step, strict=True):
        inverse = 1 / np.where(np.abs(q) < 1e-6, np.float32(1e-6), q)
        middle, half = -p * inverse, np.abs(inverse)
        spans.append((middle - half, middle + half))
    enter, leave = spans[0]
    for other in spans[1:]:
        enter, leave = np.maximum(enter, other[0]), np.minimum(leave, other[1])
    return enter, leave


def _spread(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly distributed points of the unit square: a lattice of the golden ratio."""
    number = np.arange(count)
    return (number + 0.5) / count, number * 0.6180339887498949 % 1


def _ball() -> np.ndarray:
    share, turn = _spread(_LAMP_SAMPLES)
    z, turn = 1 - 2 * share, 2 * np.pi * turn
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z])


def _hemisphere() -> np.ndarray:
    """Upward directions, with a density proportional to the light that level ground receives from them."""
    share, turn = _spread(_SKY_SAMPLES)
    turn = 2 * np.pi * turn
    return np.stack([np.sqrt(share) * np.cos(turn), np.sqrt(share) * np.sin(turn), np.sqrt(1 - share)])


_BALL, _HEMISPHERE = _ball(), _hemisphere()
