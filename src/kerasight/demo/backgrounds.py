"""The scenes behind the objects: sky, wood, cloth, tiles and the like, as RGB arrays.

Each scene is a function of a random generator, two colours, and a side in pixels, and gives a
(side, side, 3) float array in 0 to 255. Random numbers are drawn on grids whose size does not
depend on `side`, so a seed gives the same scene at every size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["BACKGROUNDS", "noise"]

Array = npt.NDArray[np.float64]


def noise(rng: np.random.Generator, side: int, *grids: tuple[int, int]) -> Array:
    """Soft random clouds, (side, side), in about 0 to 1.

    Args:
        rng: The random generator.
        side: Width and height in pixels.
        *grids: Rows and columns of each layer of noise; each layer has half the weight of the
            one before.
    """
    total = np.zeros((side, side))
    weight = 1.0
    for rows, columns in grids:
        grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
        total += weight * np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
        weight /= 2
    return total / (2 - 2 * weight)


def mix(first: Array, second: Array, share: Array) -> Array:
    """From `first` where `share` is 0 to `second` where it is 1; colours are (3,) or (h, w, 3)."""
    return np.asarray(first + (second - first) * np.clip(share, 0, 1)[..., None])


def _axes(side: int) -> tuple[Array, Array]:
    """X and y of every pixel's centre, from 0 to 1."""
    at = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(at, at)
    return x, y


def _slanted(rng: np.random.Generator, side: int) -> Array:
    """The distance of every pixel from a line through the centre at a random angle, -0.7 to 0.7."""
    x, y = _axes(side)
    angle = rng.uniform(0, np.pi)
    return np.asarray((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))


def _step(value: Array, side: int) -> Array:
    """1 where `value`, a length in picture widths, is positive, with an edge one pixel soft."""
    return np.clip(value * side + 0.5, 0, 1)


def _gradient(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    return mix(first, second, _slanted(rng, side) / 1.2 + 0.5)


def _clouds(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    return mix(first, second, 1.8 * noise(rng, side, (4, 4), (8, 8), (16, 16), (32, 32)) - 0.4)


def _stripes(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    wave = np.sin(_slanted(rng, side) * 2 * np.pi * rng.uniform(4, 9))
    cloth = mix(first, 0.55 * first + 0.45 * second, np.clip(4 * wave + 0.5, 0, 1))
    return np.asarray(cloth + 14 * (noise(rng, side, (6, 6), (90, 90))[..., None] - 0.5))


def _polka(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    x, y = _axes(side)
    count = rng.uniform(6, 10)
    radius = rng.uniform(0.16, 0.28)
    u, v = (x + y) * count / 1.4, (x - y) * count / 1.4
    distance = np.hypot(u - np.round(u), v - np.round(v))
    cloth = mix(first, 0.5 * first + 0.5 * second, _step((radius - distance) / count, side))
    return np.asarray(cloth + 12 * (noise(rng, side, (5, 5), (90, 90))[..., None] - 0.5))


def _tiles(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    x, y = _axes(side)
    count = int(rng.integers(4, 8))
    column, row = np.floor(x * count).astype(int), np.floor(y * count).astype(int)
    shades = rng.uniform(0, 0.35, size=(count, count))
    glaze = shades[row, column] + 0.2 * noise(rng, side, (12, 12), (40, 40))
    edge = np.minimum(
        np.abs(x * count - np.round(x * count)), np.abs(y * count - np.round(y * count))
    )
    grout = _step((0.04 - edge) / count, side)
    return mix(mix(first, second, glaze), 0.5 * (first + 225), 0.7 * grout)


def _meadow(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    x, y = _axes(side)
    zenith = np.array([96.0, 160.0, 220.0]) + rng.uniform(-25, 25, size=3)
    sky = mix(zenith, zenith * 0.3 + 255 * 0.7, y * 1.6)
    clouds = noise(rng, side, (5, 3), (10, 6), (20, 12), (40, 24))
    scene = mix(sky, np.full(3, 250.0), (3.2 * clouds - 1.6) * (1 - y))
    grass = np.array([112.0, 160.0, 78.0]) + rng.uniform(-20, 20, size=3)
    for depth, horizon in enumerate(np.sort(rng.uniform(0.45, 0.85, size=3))):
        bend, phase, height = rng.uniform(2, 6), rng.uniform(0, 6), rng.uniform(0.02, 0.06)
        ridge = horizon + height * np.sin(bend * x + phase)
        blades = noise(rng, side, (12, 24), (60, 96)) - 0.5
        hill = (grass * (1.15 - 0.14 * depth))[None, None] + 36 * blades[..., None]
        scene = mix(scene, hill, _step(y - ridge, side))
    return scene


def _wood(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    _, y = _axes(side)
    planks = int(rng.integers(3, 6))
    plank = np.minimum((y * planks).astype(int), planks - 1)
    shift = rng.uniform(0, 6, size=planks)[plank]
    shade = rng.uniform(-16, 12, size=planks)[plank]
    warp = noise(rng, side, (6, 3), (12, 5))
    grain = np.sin(2 * np.pi * (y * 9 + shift + 2.2 * warp)) * 0.5 + 0.5
    fibre = noise(rng, side, (96, 8), (96, 16))
    light = np.array([205.0, 165.0, 118.0]) + rng.uniform(-1, 1) * np.array([34, 30, 26])
    board = mix(light, light * 0.74, 0.6 * grain + 0.6 * fibre - 0.2) + shade[..., None]
    seam = np.abs(y * planks - np.round(y * planks)) / planks
    return mix(board, light * 0.35, 0.8 * _step(0.004 - seam, side) * (y > 0.02) * (y < 0.98))


def _room(rng: np.random.Generator, first: Array, second: Array, side: int) -> Array:
    x, y = _axes(side)
    paper = np.clip(3 * np.sin(x * 2 * np.pi * rng.integers(4, 10)) + 0.5, 0, 1)
    wall = mix(first, 0.88 * first + 0.12 * second, paper) * (1.06 - 0.14 * y)[..., None]
    table_edge = rng.uniform(0.55, 0.8)
    grain = noise(rng, side, (40, 3), (90, 6))
    table = mix(second * 0.75, second * 0.95, grain) * (0.85 + 0.25 * y)[..., None]
    shade = 1 - 0.25 * np.exp(-np.abs(y - table_edge) * 18)
    return np.asarray(mix(wall, table, _step(y - table_edge, side)) * shade[..., None])


BACKGROUNDS: tuple[Callable[[np.random.Generator, Array, Array, int], Array], ...] = (
    _gradient,
    _clouds,
    _stripes,
    _polka,
    _tiles,
    _meadow,
    _wood,
    _room,
)
"""Every kind of scene: a random generator, two colours (3,), the side in pixels -> the scene."""
