"""Images of scenes by pyvista, which is imported when a renderer is created: the extra `[render]`."""

from types import ModuleType

import numpy as np

from multipyro.data.scenes.composition import COLORS, LIGHTS, Scene, SceneObject
from multipyro.data.scenes.meshes import shapes
from multipyro.data.scenes.shadows import DISTANCES, POWERS, ground

__all__ = ["Renderer"]

# rendered so many times larger in each direction, for smooth edges
_OVERSAMPLING = 3
_GAMMA = 2.2
# intensity of the lamps and of the surroundings on objects; `shadows` computes that on the ground
_LAMPS, _SURROUNDINGS = 2.7, 1.25
_METALLIC = {"rubber": 0.0, "metal": 0.95}
_ROUGHNESS = {"rubber": 0.65, "metal": 0.25}
# linear light of 8-bit values
_LINEAR = ((np.arange(256) / 255) ** _GAMMA).astype(np.float32)


class Renderer:
    """Renders scenes at one size, each independently of the scenes before it.

    VTK renders the objects, with physically based materials in the light of the scene's lamps and of a surrounding
    studio that metal reflects; the ground with its soft shadows is composited behind them.
    """

    def __init__(self, size: int) -> None:
        pyvista = _pyvista()
        side = size * _OVERSAMPLING
        self.size = size
        #: Versions of the software: other versions, and other drivers, may round differently.
        self.versions = f"pyvista {pyvista.__version__}, VTK {'.'.join(map(str, pyvista.vtk_version_info))}"
        self._pyvista = pyvista
        self._plotter = pyvista.Plotter(off_screen=True, window_size=(side, side), lighting="none")
        window, renderer = self._plotter.ren_win, self._plotter.renderer
        window.SetMultiSamples(0)
        # the background is transparent, so that alpha is the mask of the objects
        window.SetAlphaBitPlanes(1)
        renderer.SetBackground(0, 0, 0)
        renderer.SetBackgroundAlpha(0)
        self._meshes = {name: _mesh(pyvista, *parts) for name, parts in shapes().items()}
        texture = pyvista.Texture(_studio())
        texture.SetColorModeToDirectScalars()
        texture.SetMipmap(True)
        texture.SetInterpolate(True)
        renderer.UseImageBasedLightingOn()
        renderer.SetEnvironmentTexture(texture, False)
        renderer.SetEnvironmentUp(0, 0, 1)
        renderer.SetEnvironmentRight(1, 0, 0)
        renderer.GetEnvMapPrefiltered().SetPrefilterMaxSamples(256)

    def draw(self, scene: Scene) -> np.ndarray:
        """The image, uint8 `(3, size, size)`."""
        plotter, size = self._plotter, self.size
        plotter.clear_actors()
        plotter.remove_all_lights()
        for position, power, distance in zip(scene.lights, POWERS, DISTANCES, strict=True):
            light = self._pyvista.Light(position=position, focal_point=(0, 0, 0), light_type="scene light")
            light.positional, light.cone_angle, light.attenuation_values = True, 90, (0, 1, 0)
            light.intensity = _LAMPS * power * distance
            plotter.add_light(light)
        for item in scene.objects:
            self._add(item)
        camera = plotter.camera
        camera.position, camera.focal_point, camera.up = scene.camera, tuple(scene.focus()), (0, 0, 1)
        camera.view_angle, camera.clipping_range = scene.view_angle(), (1.0, 40.0)
        plotter.ren_win.Render()  # `render` waits for a window
        pixels = self._pixels()
        share, light = _shrunk(pixels[..., 3:] > 0), _shrunk(_LINEAR[pixels[..., :3]] * (pixels[..., 3:] > 0))
        light += (1 - share) * ground(scene, size)[..., None]
        return np.rint(np.clip(light, 0, 1) ** (1 / _GAMMA) * 255).astype(np.uint8).transpose(2, 0, 1)

    def _add(self, item: SceneObject) -> None:
        actor = self._plotter.add_mesh(
            self._meshes[item.shape],
            color=(np.array(COLORS[item.color]) / 255) ** _GAMMA,
            pbr=True,
            metallic=_METALLIC[item.material],
            roughness=_ROUGHNESS[item.material],
            reset_camera=False,
            render=False,
        )
        actor.user_matrix = item.to_world()

    def _pixels(self) -> np.ndarray:
        """Red, green, blue and alpha, uint8 `(rows, columns, 4)`, rows from the top."""
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkCommonCore import vtkUnsignedCharArray

        side = self.size * _OVERSAMPLING
        values = vtkUnsignedCharArray()
        self._plotter.ren_win.GetRGBACharPixelData(0, 0, side - 1, side - 1, 0, values)
        return vtk_to_numpy(values).reshape(side, side, 4)[::-1]


def _pyvista() -> ModuleType:
    try:
        import pyvista
    except ImportError as error:
        raise ImportError(
            f'scenes are rendered by pyvista, which cannot be imported ({error}): pip install "multipyro[render]"'
        ) from error
    return pyvista


def _mesh(pyvista: ModuleType, points: np.ndarray, normals: np.ndarray, quads: np.ndarray):
    mesh = pyvista.PolyData(points, faces=np.column_stack([np.full(len(quads), 4), quads]))
    mesh.point_data.active_normals = normals
    return mesh


def _shrunk(values: np.ndarray) -> np.ndarray:
    """The means of blocks of pixels."""
    k = _OVERSAMPLING
    total = sum(values[row::k, column::k].astype(np.float32) for row in range(k) for column in range(k))
    return total / k**2


def _studio() -> np.ndarray:
    """The surroundings, light from all directions `(64, 128, 3)`: ground, a dim dome, a panel at each lamp."""
    height = 64
    polar, turn = (np.arange(height) + 0.5) / height * np.pi, (np.arange(2 * height) + 0.5) / height * np.pi
    up = np.cos(polar)[:, None] * np.ones_like(turn)
    light = np.where(up > 0, 0.4, 0.25)
    for (x, y, z), power in zip(LIGHTS, POWERS, strict=True):
        beside = np.abs((turn - np.arctan2(y, x) + np.pi) % (2 * np.pi) - np.pi)
        elevation = np.arctan2(z, np.hypot(x, y))
        high = np.abs(np.pi / 2 - polar - elevation)[:, None]
        light = light + 7 * power * _soft(0.3 - beside * np.sqrt(1 - up**2)) * _soft(0.3 - high)
        # walls reflect the ground, which is brighter toward a lamp
        light = light + 2 * power * (up <= 0) * _soft(0.45 - beside)
    return np.repeat(_SURROUNDINGS * light[..., None], 3, -1).astype(np.float32)


def _soft(inside: np.ndarray) -> np.ndarray:
    return np.clip(inside / 0.1 + 0.5, 0, 1)
