"""The eight objects of the demonstration, each a list of coloured outlines.

An object is drawn upright around the origin, x to the right and y downwards, about 2 units wide.
Nothing here knows about pixels: `kerasight.demo.pictures` turns, scales and paints the outlines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "OBJECTS",
    "Colour",
    "Outline",
    "Part",
    "arc",
    "box",
    "ellipse",
    "polygon",
    "smooth",
    "tint",
]

Colour = tuple[int, int, int]
Outline = npt.NDArray[np.float64]
"""The corners of a closed shape, (corners, 2), as x and y."""

WHITE: Colour = (250, 248, 240)
BLACK: Colour = (34, 32, 40)
GLASS: Colour = (176, 216, 232)


class Part(NamedTuple):
    """One coloured piece of an object.

    Attributes:
        outline: Its corners, (corners, 2).
        colour: Red, green and blue, 0 to 255.
        relief: How far its rounded edge reaches inwards, in the object's units.
        clipped: Whether it shows only where an earlier part already is, as a pattern on a surface.
    """

    outline: Outline
    colour: Colour
    relief: float = 0.12
    clipped: bool = False


def ellipse(x: float, y: float, across: float, down: float | None = None) -> Outline:
    """An ellipse around (x, y) with half axes `across` and `down` (a circle without `down`)."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    down = across if down is None else down
    return np.stack([x + across * np.cos(angle), y + down * np.sin(angle)], axis=1)


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> Outline:
    """A rectangle whose corners are rounded with the radius `corner`."""
    quarter = np.linspace(0, np.pi / 2, 8)
    arcs = []
    for turn, (x, y) in enumerate(
        [
            (right - corner, bottom - corner),
            (left + corner, bottom - corner),
            (left + corner, top + corner),
            (right - corner, top + corner),
        ]
    ):
        angle = quarter + turn * np.pi / 2
        arcs.append(np.stack([x + corner * np.cos(angle), y + corner * np.sin(angle)], axis=1))
    return np.concatenate(arcs)


def polygon(*corners: tuple[float, float]) -> Outline:
    """Straight lines from corner to corner."""
    return np.array(corners, dtype=np.float64)


def smooth(*points: tuple[float, float]) -> Outline:
    """A closed curve through all the points (a Catmull-Rom spline)."""
    p1 = np.array(points, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, 10, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


def arc(
    x: float, y: float, across: float, down: float, start: float, stop: float, width: float
) -> Outline:
    """A bent band of the given width along an ellipse, from angle `start` to `stop` in degrees."""
    angle = np.radians(np.linspace(start, stop, 32))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    half_axes = np.array([across, down])
    outer = (x, y) + direction * (half_axes + width / 2)
    inner = (x, y) + direction * (half_axes - width / 2)
    return np.concatenate([outer, inner[::-1]])


def tint(colour: Colour, amount: float) -> Colour:
    """The colour moved towards white (`amount` up to 1) or towards black (down to -1)."""
    goal = 255 if amount > 0 else 0
    red, green, blue = (round(c + (goal - c) * abs(amount)) for c in colour)
    return red, green, blue


# Outlines are easier to read with several corners to a line than as the formatter sets them.
# fmt: off


def _fish(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    body, fins, pattern = colours
    height = rng.uniform(0.52, 0.68)
    parts = [
        Part(
            smooth((-0.55, 0), (-1.0, -0.48), (-1.12, -0.42), (-0.95, 0), (-1.12, 0.42),
                   (-1, 0.48)),
            fins,
        ),
        Part(
            smooth((-0.35, -0.3), (-0.15, -height - 0.3), (0.35, -height - 0.05), (0.5, -0.3)),
            fins,
        ),
        Part(smooth((-0.2, 0.3), (-0.2, height + 0.22), (0.15, height + 0.02), (0.3, 0.3)), fins),
        Part(
            smooth(
                (-0.72, 0), (-0.3, -0.7 * height), (0.25, -height), (0.78, -0.6 * height),
                (1.0, 0.02), (0.78, 0.6 * height), (0.25, height), (-0.3, 0.7 * height),
            ),
            body,
            relief=0.3,
        ),
    ]
    for x in np.linspace(-0.3, 0.3, int(rng.integers(1, 4))):
        stripe = smooth(
            (x, -1), (x + 0.16, -0.3), (x + 0.16, 0.3), (x, 1), (x - 0.08, 0.3), (x - 0.08, -0.3)
        )
        parts.append(Part(stripe, pattern, 0.05, True))
    parts += [
        Part(smooth((-0.02, 0.08), (0.3, 0.0), (0.12, 0.36), (-0.18, 0.42)), fins, 0.08),
        Part(ellipse(0.66, -0.14, 0.15), WHITE, 0.06),
        Part(ellipse(0.70, -0.13, 0.08), BLACK, 0.04),
        Part(arc(1.0, 0.1, 0.2, 0.14, 70, 165, 0.05), tint(body, -0.5), 0.02, True),
    ]
    return parts


def _mug(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    body, drink, pattern = colours
    foot = rng.uniform(0.48, 0.66)
    parts = [
        Part(arc(0.62, 0.02, 0.38, 0.42, -100, 100, 0.2), body, 0.08),
        Part(
            np.concatenate(
                [
                    polygon((0.7, -0.72), (foot + 0.02, 0.68)),
                    ellipse(0, 0.7, foot, 0.2)[:25],
                    polygon((-foot - 0.02, 0.68), (-0.7, -0.72)),
                ]
            ),
            body,
            relief=0.3,
        ),
    ]
    match rng.integers(3):
        case 0:
            parts.append(Part(box(-0.9, -0.2, 0.72, 0.3), pattern, 0.03, True))
        case 1:
            for x in (-0.45, 0.0, 0.45):
                parts.append(Part(ellipse(x, 0.08, 0.15), pattern, 0.04, True))
        case _:
            parts.append(
                Part(
                    smooth((0, -0.1), (0.2, -0.24), (0.36, -0.02), (0, 0.42), (-0.36, -0.02),
                           (-0.2, -0.24)),
                    pattern, 0.06, True,
                )
            )
    parts += [
        Part(ellipse(0, -0.72, 0.72, 0.23), tint(body, 0.25), 0.05),
        Part(ellipse(0, -0.70, 0.6, 0.16), tint(drink, -0.45), 0.03),
    ]
    return parts


def _tree(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    crown, trunk, fruit = colours
    parts = [
        Part(
            smooth((-0.14, 0.2), (-0.13, 0.8), (-0.3, 1.08), (0.3, 1.08), (0.13, 0.8),
                   (0.14, 0.2)),
            tint(trunk, -0.3), 0.1,
        )
    ]
    if rng.random() < 0.5:
        for tier, (top, half, foot) in enumerate(
            [(-0.35, 0.82, 0.72), (-0.75, 0.68, 0.28), (-1.12, 0.5, -0.2)]
        ):
            outline = smooth(
                (0, top), (half * 0.55, (top + foot) / 2), (half, foot), (half * 0.5, foot + 0.07),
                (0, foot + 0.1), (-half * 0.5, foot + 0.07), (-half, foot),
                (-half * 0.55, (top + foot) / 2),
            )
            parts.append(Part(outline, tint(crown, 0.12 * tier), 0.2))
    else:
        for x, y, radius in [
            (-0.42, 0.08, 0.42), (0.42, 0.08, 0.42), (0, 0.12, 0.4), (-0.3, -0.4, 0.46),
            (0.34, -0.38, 0.44), (0, -0.68, 0.4),
        ]:
            wobble = rng.uniform(-0.06, 0.06, size=2)
            leaves = ellipse(x + wobble[0], y + wobble[1], radius)
            parts.append(Part(leaves, tint(crown, 0.1 * rng.random()), 0.25))
        for x, y in [(-0.45, 0.1), (0.4, 0.15), (-0.25, -0.45), (0.35, -0.4), (0.02, -0.1)]:
            parts.append(Part(ellipse(x, y, 0.1), fruit, 0.05))
    return parts


def _house(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    walls, roof, door = colours
    half = rng.uniform(0.66, 0.85)
    side = rng.choice([-1, 1])
    chimney = 0.45 * side
    return [
        Part(box(chimney - 0.14, -0.95, chimney + 0.14, -0.3), tint(roof, -0.35), 0.06),
        Part(box(-half, -0.25, half, 0.92, 0.03), tint(walls, 0.25), 0.1),
        Part(
            polygon((0, -1.05), (half + 0.22, -0.22), (half + 0.16, -0.1), (-half - 0.16, -0.1),
                    (-half - 0.22, -0.22)),
            roof, 0.16,
        ),
        Part(ellipse(0, -0.45, 0.16), GLASS, 0.05),
        Part(box(-0.2 - 0.25 * side, 0.28, 0.2 - 0.25 * side, 0.92, 0.05), door, 0.06),
        Part(ellipse(0.1 - 0.25 * side, 0.62, 0.04), WHITE, 0.02),
        Part(box(0.38 * side - 0.24, 0.1, 0.38 * side + 0.24, 0.56, 0.03), WHITE, 0.04),
        Part(box(0.38 * side - 0.18, 0.16, 0.38 * side + 0.18, 0.5), GLASS, 0.03),
        Part(box(0.38 * side - 0.03, 0.12, 0.38 * side + 0.03, 0.54), WHITE, 0.02),
        Part(box(0.38 * side - 0.2, 0.3, 0.38 * side + 0.2, 0.36), WHITE, 0.02),
    ]


def _mushroom(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    cap, spots, stem = colours
    height = rng.uniform(0.85, 1.05)
    pale = tint(stem, 0.65)
    parts = [
        Part(
            smooth((-0.25, -0.1), (-0.24, 0.4), (-0.36, 0.85), (0, 1.0), (0.36, 0.85), (0.24, 0.4),
                   (0.25, -0.1)),
            pale, 0.2,
        ),
        Part(
            smooth((-1.0, 0.05), (-0.92, -0.4), (-0.5, -height + 0.08), (0, -height),
                   (0.5, -height + 0.08), (0.92, -0.4), (1.0, 0.05), (0.5, 0.2), (0, 0.24),
                   (-0.5, 0.2)),
            cap, 0.34,
        ),
    ]
    for x, y, radius in [
        (-0.6, -0.2, 0.17), (-0.1, -0.55, 0.21), (0.48, -0.42, 0.16), (0.2, -0.05, 0.15),
        (0.8, -0.02, 0.12), (-0.3, 0.08, 0.1), (-0.42, -0.74, 0.11),
    ]:
        parts.append(
            Part(ellipse(x, y, radius * rng.uniform(0.85, 1.15)), tint(spots, 0.4), 0.06, True)
        )
    return parts


def _car(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    body, stripe, hub = colours
    roof = rng.uniform(-0.78, -0.62)
    parts = [
        Part(
            smooth((-0.78, 0.0), (-0.6, -0.4), (-0.42, roof), (0.1, roof - 0.02),
                   (0.32, roof + 0.08), (0.62, -0.1), (0.6, 0.1)),
            tint(body, 0.15), 0.14,
        ),
        Part(smooth((-0.6, -0.1), (-0.52, -0.35), (-0.36, roof + 0.15), (-0.14, roof + 0.13),
                    (-0.14, -0.08)), GLASS, 0.05),
        Part(smooth((-0.02, -0.1), (-0.02, roof + 0.13), (0.16, roof + 0.15), (0.44, -0.16)),
             GLASS, 0.05),
        Part(
            smooth((-1.04, 0.1), (-0.95, -0.14), (-0.4, -0.14), (0.5, -0.12), (0.9, -0.02),
                   (1.06, 0.2), (1.02, 0.52), (0.5, 0.58), (-0.5, 0.58), (-1.0, 0.52)),
            body, 0.2,
        ),
        Part(box(-1.2, 0.12, 1.2, 0.22), stripe, 0.03, True),
        Part(ellipse(0.94, 0.12, 0.1), (255, 240, 170), 0.05, True),
        Part(ellipse(-1.0, 0.1, 0.09), (200, 50, 50), 0.04, True),
    ]
    for x in (-0.55, 0.56):
        parts += [
            Part(ellipse(x, 0.5, 0.29), BLACK, 0.1),
            Part(ellipse(x, 0.5, 0.15), tint(hub, 0.5), 0.06),
        ]
    return parts


def _rocket(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    body, trim, flame = colours
    width = rng.uniform(0.4, 0.52)
    hull = smooth(
        (0, -1.1), (0.75 * width, -0.65), (width, -0.1), (0.9 * width, 0.4), (0.55 * width, 0.68),
        (-0.55 * width, 0.68), (-0.9 * width, 0.4), (-width, -0.1), (-0.75 * width, -0.65),
    )
    fin = smooth((0.7 * width, 0.0), (width + 0.35, 0.42), (width + 0.36, 0.95), (0.4 * width, 0.6))
    return [
        Part(smooth((-0.22, 0.6), (-0.26, 0.85), (0, 1.2), (0.26, 0.85), (0.22, 0.6)),
             (250, 140, 50), 0.08),
        Part(smooth((-0.12, 0.6), (-0.13, 0.8), (0, 1.0), (0.13, 0.8), (0.12, 0.6)),
             (255, 225, 110), 0.05),
        Part(fin, trim, 0.12),
        Part(fin * (-1, 1), trim, 0.12),
        Part(hull, tint(body, 0.2), 0.3),
        Part(box(-1, -1.4, 1, -0.62), trim, 0.1, True),
        Part(box(-1, 0.42, 1, 0.56), trim, 0.04, True),
        Part(ellipse(0, -0.2, 0.25), tint(flame, -0.3), 0.06),
        Part(ellipse(0, -0.2, 0.18), GLASS, 0.07),
    ]


def _duck(rng: np.random.Generator, colours: Sequence[Colour]) -> list[Part]:
    body, beak, wing = colours
    head = rng.uniform(0.4, 0.47)
    return [
        Part(smooth((0.7, -0.62), (1.08, -0.58), (1.12, -0.46), (0.72, -0.36)), beak, 0.06),
        Part(
            smooth((-1.1, -0.32), (-0.75, -0.05), (-0.2, -0.16), (0.15, -0.22), (0.62, -0.15),
                   (0.78, 0.3), (0.4, 0.76), (-0.3, 0.8), (-0.82, 0.48)),
            body, 0.3,
        ),
        Part(ellipse(0.4, -0.5, head), body, 0.28),
        Part(smooth((-0.6, 0.12), (-0.1, 0.02), (0.22, 0.2), (0.0, 0.48), (-0.42, 0.5)),
             tint(wing, 0.15), 0.12),
        Part(smooth((0.62, -0.58), (0.94, -0.5), (1.0, -0.42), (0.68, -0.34)), tint(beak, -0.2),
             0.04),
        Part(ellipse(0.5, -0.62, 0.1), WHITE, 0.04),
        Part(ellipse(0.53, -0.61, 0.06), BLACK, 0.03),
    ]


# fmt: on

OBJECTS: dict[str, Callable[[np.random.Generator, Sequence[Colour]], list[Part]]] = {
    "fish": _fish,
    "mug": _mug,
    "tree": _tree,
    "house": _house,
    "mushroom": _mushroom,
    "car": _car,
    "rocket": _rocket,
    "duck": _duck,
}
"""From the name of a class to the function that draws one: a random generator, three colours."""
