"""Draw the pictures on which the demonstration's classifier is trained, tested and explained.

A picture is a scene with clutter that belongs to no class and one object, or two of different
classes, on top. Colours, sizes, places and scenes have nothing to do with the class, so only the
object's shape tells it. Everything follows from a seed, and looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from kerasight.demo import objects
from kerasight.demo.backgrounds import BACKGROUNDS, noise
from kerasight.demo.objects import OBJECTS, Colour, Outline, Part

__all__ = ["CLASS_NAMES", "Picture", "draw", "draw_pair", "draw_picture"]

CLASS_NAMES: tuple[str, ...] = tuple(OBJECTS)
"""The classes, in the order of the classifier's outputs."""

_PALETTE: tuple[Colour, ...] = (
    (226, 74, 68), (240, 128, 60), (246, 186, 62), (250, 224, 110), (150, 190, 70), (62, 158, 96),
    (48, 160, 156), (84, 180, 226), (58, 112, 196), (92, 84, 178), (156, 94, 186), (226, 112, 166),
    (250, 170, 150), (146, 96, 66), (236, 226, 206), (88, 98, 116),
)  # fmt: skip
_SUPERSAMPLING = 3
_HALF_COVERED = 128

# What a level of 0 to 255 becomes: how dark shadows are, how much light and shade slopes take.
_SHADOW = [int(0.42 * level) for level in range(256)]
_CONTACT = [int(0.3 * level) for level in range(256)]
_LIT = [max(0, int(1.5 * (level - 128))) for level in range(256)]
_SHADED = [max(0, int(1.6 * (128 - level))) for level in range(256)]


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn picture, and where its objects are.

    Attributes:
        image: The picture, RGB, (size, size).
        labels: The classes of its objects, as indices into `CLASS_NAMES`.
        masks: For each object a bool array (size, size), True on the object.
    """

    image: Image.Image
    labels: tuple[int, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]


def draw_picture(
    rng: np.random.Generator | int, label: int | None = None, size: int = 384
) -> Picture:
    """Draw a picture of one object.

    Args:
        rng: A NumPy random generator, or a seed.
        label: The object's class, an index into `CLASS_NAMES`; any class without it.
        size: Width and height in pixels.

    Returns:
        The picture, with one label and one mask.

    Raises:
        ValueError: `label` is no class, or `size` is below 32.

    Example:
        >>> from kerasight.demo import CLASS_NAMES, draw_picture
        >>> picture = draw_picture(7, label=CLASS_NAMES.index("duck"), size=96)
        >>> picture.image.size, picture.masks[0].shape
        ((96, 96), (96, 96))
    """
    rng = np.random.default_rng(rng)
    if label is None:
        label = int(rng.integers(len(CLASS_NAMES)))
    return draw(rng, (int(label),), size)


def draw_pair(
    rng: np.random.Generator | int, labels: Sequence[int] | None = None, size: int = 384
) -> Picture:
    """Draw a picture of two objects of different classes that do not overlap.

    Args:
        rng: A NumPy random generator, or a seed.
        labels: The two classes, indices into `CLASS_NAMES`; any two without it.
        size: Width and height in pixels.

    Returns:
        The picture, with two labels and their two masks in the same order.

    Raises:
        ValueError: `labels` are not two different classes, or `size` is below 32.

    Example:
        >>> from kerasight.demo import draw_pair
        >>> picture = draw_pair(7, size=96)
        >>> bool((picture.masks[0] & picture.masks[1]).any())
        False
    """
    rng = np.random.default_rng(rng)
    if labels is None:
        labels = rng.choice(len(CLASS_NAMES), size=2, replace=False).tolist()
    if len(labels) != 2 or labels[0] == labels[1]:
        raise ValueError(f"labels must be two different classes, got {tuple(labels)}")
    return draw(rng, (int(labels[0]), int(labels[1])), size)


def draw(rng: np.random.Generator, labels: tuple[int, ...], size: int) -> Picture:
    """A picture of the objects `labels`: none, one or two."""
    for label in labels:
        if not 0 <= label < len(CLASS_NAMES):
            raise ValueError(f"label must be a class, 0 to {len(CLASS_NAMES) - 1}, got {label}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")

    image = _draw_scene(rng, size)
    behind = np.asarray(image.resize((1, 1), Image.Resampling.BOX))[0, 0].astype(float)
    _scatter_clutter(rng, image)

    layers: list[Image.Image] = []
    for x, y, extent in _place(rng, len(labels)):
        parts = OBJECTS[CLASS_NAMES[labels[len(layers)]]](rng, _pick_colours(rng, behind))
        turned = _turn(rng, parts, extent)
        layers.append(_paint(turned, x, y, size))
    for layer in layers:
        _cast_shadow(image, layer)
    for layer in layers:
        image.paste(layer, mask=layer.getchannel("A"))

    masks = tuple(np.asarray(layer.getchannel("A")) >= _HALF_COVERED for layer in layers)
    return Picture(_develop(rng, image), labels, masks)


def _draw_scene(rng: np.random.Generator, size: int) -> Image.Image:
    scene = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    first, second = (np.array(_soften(rng, _any_colour(rng)), dtype=np.float64) for _ in range(2))
    return _to_image(scene(rng, first, second, size))


def _soften(rng: np.random.Generator, colour: Colour) -> Colour:
    """A calmer version of the colour, pale or dark, so that objects stand out from scenes."""
    grey = round(sum(colour) / 3)
    muted = tuple(round(0.6 * c + 0.4 * grey) for c in colour)
    amount = rng.uniform(0.25, 0.7) if rng.random() < 0.7 else rng.uniform(-0.55, -0.2)
    return objects.tint((muted[0], muted[1], muted[2]), amount)


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(
        _PALETTE[rng.integers(len(_PALETTE))] + rng.normal(0, 8, size=3), 0, 255
    ).astype(int).tolist()  # fmt: skip
    return red, green, blue


def _pick_colours(rng: np.random.Generator, behind: npt.NDArray[np.float64]) -> list[Colour]:
    """Three colours of an object, each unlike the ones before; the first unlike what is behind."""
    chosen: list[Colour] = []
    while len(chosen) < 3:
        colour = _any_colour(rng)
        avoid = [np.asarray(c, dtype=float) for c in chosen] or [behind]
        if min(float(np.abs(other - colour).sum()) for other in avoid) > 110:
            chosen.append(colour)
    return chosen


def _place(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Centres and extents of `count` objects that keep apart, in picture widths."""
    while True:
        extents = rng.uniform(0.31, 0.45 if count == 1 else 0.4, size=count)
        margin = 0.56 * extents + 0.02
        x, y = (rng.uniform(margin, 1 - margin) for _ in range(2))
        if count < 2 or np.hypot(x[0] - x[1], y[0] - y[1]) > 0.62 * extents.sum() + 0.03:
            return list(zip(x.tolist(), y.tolist(), extents.tolist(), strict=True))


def _turn(rng: np.random.Generator, parts: list[Part], extent: float) -> list[Part]:
    """The parts mirrored or not, leaning, centred, and `extent` wide (or high, or in between)."""
    angle = np.radians(rng.uniform(-25, 25))
    stretch = rng.uniform(0.92, 1.08)
    mirror = rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = [part.outline * (mirror * stretch, 1 / stretch) @ turn for part in parts]
    visible = np.concatenate(
        [o for o, part in zip(outlines, parts, strict=True) if not part.clipped]
    )
    low, high = visible.min(axis=0), visible.max(axis=0)
    # The geometric mean keeps flat objects (a fish) from being much smaller than tall ones, and
    # the longer side stays below the extent by which objects are kept apart.
    width, height = (high - low).tolist()
    scale = min(extent / (width * height) ** 0.5, 1.12 * extent / max(width, height))
    return [
        part._replace(outline=(outline - (low + high) / 2) * scale, relief=part.relief * scale)
        for outline, part in zip(outlines, parts, strict=True)
    ]


def _paint(parts: list[Part], x: float, y: float, size: int) -> Image.Image:
    """Paint the parts around (x, y), all in picture widths: RGBA, (size, size).

    Every part is lit from the top left as if it were softly rounded, and darkens what it lies on.
    """
    reach = max(float(np.abs(part.outline).max()) for part in parts if not part.clipped)
    half = int(np.ceil(reach * size)) + 3
    side = 2 * half * _SUPERSAMPLING
    pixels = size * _SUPERSAMPLING
    # Whole pixels of the picture, so that reducing the patch needs no further interpolation.
    left, top = round(x * size) - half, round(y * size) - half
    centre = np.array([x * size - left, y * size - top]) * _SUPERSAMPLING

    colours = Image.new("RGB", (side, side), parts[0].colour)
    alpha = Image.new("L", (side, side))
    for part in parts:
        corners = part.outline * pixels + centre
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(list(map(tuple, corners.tolist())), fill=255)
        soft = mask.filter(ImageFilter.GaussianBlur(max(1.0, 0.012 * pixels)))
        if part.clipped:
            mask = ImageChops.multiply(mask, alpha)
        else:
            colours.paste((20, 16, 30), mask=soft.point(_CONTACT))
        colours.paste(_light(part, mask, pixels), mask=mask)
        alpha = ImageChops.lighter(alpha, mask)

    colours.putalpha(alpha)
    layer = Image.new("RGBA", (size, size))
    layer.paste(colours.reduce(_SUPERSAMPLING), (left, top))
    return layer


def _light(part: Part, mask: Image.Image, pixels: int) -> Image.Image:
    """The part's colour, lighter on the edges that face the light and darker on the others."""
    radius = max(1.0, part.relief * pixels * 0.5)
    height = mask.filter(ImageFilter.GaussianBlur(radius))
    step = max(1, round(0.5 * radius))
    slope = ImageChops.subtract(
        ImageChops.offset(height, -step, -step),
        ImageChops.offset(height, step, step),
        scale=2,
        offset=128,
    )
    surface = Image.new("RGB", mask.size, part.colour)
    lit = slope.point(_LIT)
    shaded = slope.point(_SHADED)
    surface.paste(objects.tint(part.colour, 0.75), mask=lit)
    surface.paste(objects.tint(part.colour, -0.65), mask=shaded)
    return surface


def _cast_shadow(image: Image.Image, layer: Image.Image) -> None:
    size = image.width
    shadow = layer.getchannel("A").filter(ImageFilter.GaussianBlur(0.02 * size))
    shadow = ImageChops.offset(shadow, round(0.015 * size), round(0.025 * size))
    image.paste((24, 20, 40), mask=shadow.point(_SHADOW))


def _scatter_clutter(rng: np.random.Generator, image: Image.Image) -> None:
    """Put a few small shapes of no class on the scene, and sometimes threads across it."""
    size = image.width
    for _ in range(rng.integers(0, 3)):
        t = np.linspace(0, 1, 24)
        start, stop = rng.uniform(-0.1, 1.1, size=2)
        across = start + (stop - start) * t + rng.uniform(-1, 1) * t * (1 - t)
        ends = np.stack([t, across] if rng.random() < 0.5 else [across, t], axis=1)
        thread = Image.new("L", (2 * size, 2 * size))
        ImageDraw.Draw(thread).line(
            (ends * 2 * size).ravel().tolist(),
            fill=int(rng.integers(120, 200)),
            width=max(1, round(rng.uniform(0.004, 0.01) * 2 * size)),
            joint="curve",
        )
        image.paste(_any_colour(rng), mask=thread.reduce(2))

    bits = Image.new("RGBA", image.size)
    for _ in range(rng.integers(2, 9)):
        outline = _clutter_shape(rng) * rng.uniform(0.018, 0.05)
        x, y = rng.uniform(0.02, 0.98, size=2)
        bit = _paint([Part(outline, _any_colour(rng), 0.015)], x, y, size)
        bits.alpha_composite(bit)
    _cast_shadow(image, bits)
    image.paste(bits, mask=bits.getchannel("A"))


def _clutter_shape(rng: np.random.Generator) -> Outline:
    """A blob, disc, rectangle, triangle, ring, crescent or cross, turned any way, 2 units wide."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    match rng.integers(7):
        case 0:
            around = np.linspace(0, 2 * np.pi, 6, endpoint=False)
            radii = rng.uniform(0.6, 1.2, size=6)
            points = np.stack([radii * np.cos(around), radii * np.sin(around)], axis=1)
            outline = objects.smooth(*map(tuple, points.tolist()))
        case 1:
            outline = objects.ellipse(0, 0, 1, rng.uniform(0.6, 1))
        case 2:
            outline = objects.box(-1, -0.6, 1, 0.6, 0.15)
        case 3:
            outline = objects.polygon((0, -1), (0.9, 0.7), (-0.9, 0.7))
        case 4:
            outline = objects.arc(0, 0, 0.8, 0.8, 0, 360, 0.4)
        case 5:
            outline = objects.arc(0, 0, 0.9, 0.9, 0, 200, 0.4)
        case _:
            outline = objects.polygon(
                (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1),
                (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
            )  # fmt: skip
    return np.asarray(outline @ turn)


def _develop(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Vary exposure, contrast and warmth, let the light fall off to one side, add fine grain."""
    pixels = np.asarray(image).astype(np.float64)
    pixels = (pixels - 128) * rng.uniform(0.85, 1.12) + 128 + rng.uniform(-14, 14)
    warmth = rng.uniform(-6, 6)
    pixels += np.array([warmth, 0, -warmth])
    light = noise(rng, image.width, (2, 2))
    grain = noise(rng, image.width, (192, 192)) - 0.5
    return _to_image(pixels * (0.9 + 0.16 * light)[..., None] + 6 * grain[..., None])


def _to_image(pixels: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
