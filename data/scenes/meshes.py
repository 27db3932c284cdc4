"""Surfaces of the unit shapes: points, normals and quads, with rounded upper edges. Without pyvista."""

import numpy as np

__all__ = ["shapes"]

# radius of the rounded edges, in units of the shape
_BEVEL = 0.1
_TURNS, _STEPS = 64, 6


def shapes() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points `(points, 3)`, unit normals `(points, 3)` outwards and quads `(quads, 4)` of each shape.

    Every shape extends from -1 to 1 along each axis. It has no bottom, because it stands on it, and its lower edge is
    sharp.
    """
    tilt = np.linspace(0, np.pi, _TURNS // 2 + 1)
    arc = np.stack([np.sin(tilt), np.cos(tilt)], -1)
    tilt = np.linspace(0, np.pi / 2, _STEPS)
    bow = np.stack([np.sin(tilt), np.cos(tilt)], -1)
    profile = np.concatenate([[(0, 1)], 1 - _BEVEL + _BEVEL * bow, [(1, -1)]])
    slopes = np.concatenate([[(0, 1)], bow, [(1, 0)]])
    parts = {"sphere": _turned(arc, arc), "cylinder": _turned(profile, slopes), "cube": _cube()}
    return {
        name: (points, normals, _outwards(points, normals, quads)) for name, (points, normals, quads) in parts.items()
    }


def _outwards(points: np.ndarray, normals: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """The quads with their corners counterclockwise as seen from outside: VTK treats the others as back faces."""
    corners = points[quads]
    across = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    back = (across * normals[quads].sum(1)).sum(1) < 0
    return np.where(back[:, None], quads[:, ::-1], quads)


def _turned(profile: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface of revolution of a profile of pairs (distance from the axis, height), with the slopes as normals."""
    turn = np.arange(_TURNS + 1) * 2 * np.pi / _TURNS

    def swept(pairs: np.ndarray) -> np.ndarray:
        parts = [pairs[:, :1] * np.cos(turn), pairs[:, :1] * np.sin(turn), pairs[:, 1:] * np.ones_like(turn)]
        return np.stack(parts, -1).reshape(-1, 3)

    return swept(profile), swept(slopes), _quads(len(profile), len(turn))


def _cube() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces with half of the rounded edges around each; the sides extend down to the ground."""
    # on the face z = 1: points of a grid that, pulled onto the rounded cube, meet the next face at 45 degrees
    bow = np.tan(np.linspace(0, np.pi / 4, _STEPS))
    line = np.concatenate([-(1 - _BEVEL + _BEVEL * bow)[::-1], 1 - _BEVEL + _BEVEL * bow])
    first, second = (part.reshape(-1) for part in np.meshgrid(line, line, indexing="ij"))
    face = np.stack([first, second, np.ones_like(first)], -1)
    turns = [np.array([[0, 0, s], [0, s, 0], [-s, 0, 0]]) @ face.T for s in (1, -1)]
    sides = [turned[[i, j, 2]].T for turned in turns for i, j in ((0, 1), (1, 0))]
    points = np.concatenate([face, *sides])
    core = np.clip(points, _BEVEL - 1, 1 - _BEVEL)
    # the lower half of a side goes straight down to the ground
    core[:, 2] = np.where(points[:, 2] < 0, points[:, 2], core[:, 2])
    normals = points - core
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    surface = core + _BEVEL * normals
    quads = _quads(len(line), len(line))
    return surface, normals, np.concatenate([quads + number * len(face) for number in range(5)])


def _quads(rows: int, columns: int) -> np.ndarray:
    corner = np.arange(rows * columns).reshape(rows, columns)
    return np.stack([corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]], -1).reshape(-1, 4)
