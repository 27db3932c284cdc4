"""Rendered scenes of one or two objects and sentences that describe them."""

from multipyro.data.scenes.composition import Scene, SceneObject, draw_scene, sentence, sentence_is_true
from multipyro.data.scenes.two_objects import load_scenes, scene_arrays

__all__ = [
    "Scene",
    "SceneObject",
    "draw_scene",
    "load_scenes",
    "scene_arrays",
    "sentence",
    "sentence_is_true",
]
