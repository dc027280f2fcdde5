"""Explanations of videos and volumes as animations."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image

from kerasight.base import Explanation, check_explanation
from kerasight.checks import integer, one_of
from kerasight.files import whole_file
from kerasight.formatters.heat import heat_of
from kerasight.formatters.kinds import KINDS, drawn_kind
from kerasight.formatters.overlay import Style
from kerasight.formatters.pixels import Colormap, ResamplingFilter
from kerasight.formatters.sheet import Panel, sheet
from kerasight.formatters.stack import draw_slice, enlargement, heat_slices, stack_of
from kerasight.formatters.text import format_score

__all__ = ["write_animation"]

# What the formats are to Pillow: loops forever, and WebP with the losses of a photograph.
_FORMATS = {"gif": {"loop": 0}, "webp": {"loop": 0, "quality": 85}}
# Lengths of the longer side of a frame.
_LEAST, _MOST = 320, 640


def write_animation(
    expl: Explanation,
    file: str | os.PathLike[str] | IO[bytes],
    *,
    duration: int = 120,
    format: str | None = None,
    resampling_filter: ResamplingFilter = Image.Resampling.LANCZOS,
    colormap: Colormap | None = None,
    alpha_limit: float | None = 0.65,
    outliers: float | None = None,
    absolute: bool = False,
    blur: float = 0,
) -> int:
    """Write a video with its heatmap over it as an animated GIF or WebP.

    Of a volume each slice along its depth is a frame. The heat changes from frame to frame as
    smoothly as within one. Of several targets there are panels side by side, each with its class
    and score below. Small frames are enlarged, by a whole factor, large ones reduced to 640 pixels
    a side. The animation begins again when it has ended.

    Args:
        expl: An explanation of a video or a volume, as `kerasight.format_as_image` takes it.
        file: A path that ends in ``.gif`` or ``.webp``, or a binary file open for writing. A file
            at a path takes its place once it is whole; until then an earlier one stays.
        duration: How long a frame is shown, in milliseconds, at least 10.
        format: ``"gif"``, which any viewer shows, in 256 colours a frame, or ``"webp"``, smaller
            and in all colours; if None, the end of the path tells.
        resampling_filter: As in `kerasight.format_as_image`.
        colormap: As in `kerasight.format_as_image`.
        alpha_limit: As in `kerasight.format_as_image`.
        outliers: As in `kerasight.format_as_image`.
        absolute: As in `kerasight.format_as_image`.
        blur: As in `kerasight.format_as_image`; it goes along the frames or slices as well.

    Returns:
        How many frames there are. In the file, equal ones that follow one another may be one, shown
        for as long.

    Raises:
        TypeError: As from `kerasight.format_as_image`, or if ``duration`` is no integer, or
            ``file`` neither a path nor open for bytes.
        ValueError: As from `kerasight.format_as_image`, if the explanation is of another kind, if
            the format is unknown, or if ``duration`` is less than 10.
        OSError: If the file cannot be written.
    """
    check_explanation(expl)
    if not drawn_kind(expl).is_stack:
        names = [f"{name}s" for name, kind in KINDS.items() if kind.is_stack]
        raise ValueError(
            f"only {' and '.join(names)} can be animated, and this explanation is of a {expl.kind}"
        )
    duration = integer("duration", duration, least=10)
    if isinstance(file, str | os.PathLike):
        format = Path(file).suffix.removeprefix(".") if format is None else format
    elif isinstance(file, io.TextIOBase) or not hasattr(file, "write"):
        raise TypeError(
            f"file must be a path, or a binary file open for writing, got {type(file).__name__}"
        )
    if not format:
        raise ValueError("the format must be told: end the path in .gif or .webp, or pass format=")
    name = one_of("format", format, _FORMATS)
    style = Style(resampling_filter, colormap, alpha_limit, outliers, absolute, blur)
    frames = _frames(expl, style)
    if name == "gif":
        frames = map(_in_256_colours, frames)
    # Made before the file is opened: what is wrong with the explanation leaves none.
    first = next(frames)
    count = 1

    def others() -> Iterator[Image.Image]:
        nonlocal count
        for frame in frames:
            count += 1
            yield frame

    def save(out: IO[bytes]) -> None:
        options = {"save_all": True, "append_images": others(), "duration": duration}
        first.save(out, format=name, **options, **_FORMATS[name])

    if isinstance(file, str | os.PathLike):
        with whole_file(file, "wb") as out:
            save(out)
    else:
        save(file)
    return count


def _frames(expl: Explanation, style: Style) -> Iterator[Image.Image]:
    """The frames of an animation as RGB images."""
    axes = drawn_kind(expl).axes
    stack = stack_of(expl, axes)
    count = stack.shape[0]
    targets = expl.targets or []
    heats = [heat_of(target, axes, style) for target in targets]
    slices = [heat_slices(heat.drawn, 0, count, style) for heat in heats]
    factor = enlargement(stack.shape[1:], _LEAST, _MOST)
    for at in range(count):
        pixels = stack.plane(at)
        drawn = [
            draw_slice(pixels, cut[at], heat.is_signed, style, factor)
            for heat, cut in zip(heats, slices, strict=True)
        ] or [draw_slice(pixels, None, False, style, factor)]
        if len(drawn) == 1:
            yield drawn[0].convert("RGB")
            continue
        panels = []
        for target, picture in zip(targets, drawn, strict=True):
            score = format_score(target.score, target.is_probability)
            panels.append(Panel(picture, target.label, f"score {score}" if score else ""))
        yield sheet([panels]).convert("RGB")


def _in_256_colours(frame: Image.Image) -> Image.Image:
    # Pillow's default takes its colours from what there is most of, and leaves steps in the heat.
    palette = frame.quantize(256, method=Image.Quantize.FASTOCTREE)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
