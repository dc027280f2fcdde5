"""``kerasight explain``: pictures in, overlays and a table of classes and scores out."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

from kerasight.cli import models, options
from kerasight.cli.console import (
    PictureError,
    RunError,
    as_options,
    console,
    describe,
    nearest,
    plain,
    printable,
    progress,
    reason,
    say,
)
from kerasight.cli.files import OVERLAY, PAGE, Guard, check_writable, is_own, write_png
from kerasight.cli.pictures import Source, expanded, source_of, to_rgba
from kerasight.cli.tables import OverlayRow, print_overlays
from kerasight.keras.methods import METHODS, Method

if TYPE_CHECKING:
    from PIL import Image

    from kerasight.base import Explanation
    from kerasight.cli.models import Classifier
    from kerasight.keras.heatmaps import Question

__all__ = ["HELP", "command"]

_MOST = 100  # overlays of a picture

HELP = (
    "Show where a model looked in pictures: for each an overlay with the heatmap of a class, and a "
    "line in a table of class, score, layer and file.\n\n"
    "Without IMAGES and --model, the embedded demo model explains its embedded picture."
)


@dataclass(frozen=True)
class _Request:
    """What the options ask for, about classes, heatmap, overlay and report.

    Attributes:
        target: The class, as the user names it.
        top: How many of the best classes to explain, if none is named.
        layers: The layers; none to have one chosen.
        output: The folder of the overlays.
        html: The file of the report, if there is to be one.
        colormap: Name of a colormap; None for that of the library.
        alpha: The greatest opacity of the heatmap.
        method: The method.
        asked: What else is asked of it, as `kerasight.explain_prediction` takes it.
        references: The classes to compare with, as the user names them.
    """

    target: str | None
    top: int
    layers: Sequence[int | str]
    output: Path
    html: Path | None
    colormap: str | None
    alpha: float
    method: Method
    asked: dict[str, Any]
    references: Sequence[str]

    @property
    def question(self) -> Question:
        """The method and what is asked of it, once Keras is there."""
        from kerasight.keras.heatmaps import Question

        return Question.of(self.method.name, **self.asked)

    def question_of(self, classifier: Classifier) -> Question:
        """The same with the classes to compare with, once the model is there."""
        if not self.references:
            return self.question
        indices = [_class_index("--reference", one, classifier) for one in self.references]
        return replace(self.question, references=tuple(dict.fromkeys(indices)))


def command(
    images: options.Images = None,
    model: options.Model = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="INDEX|NAME",
            show_default=False,
            help="The class to explain: its index, or its name where names are known. "
            "Default: the class with the highest score.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="N",
            show_default=False,
            help=f"Explain the N classes with the highest scores, at most {_MOST}, each in an "
            "overlay of its own. Default: 1, and 2 for the embedded picture, which holds two "
            "objects.",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help=f"{options.METHOD_NAMES}.")
    ] = "grad-cam",
    layer: options.Layers = None,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="Explain the score before the final softmax or sigmoid."),
    ] = False,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed", help="Show what speaks against the class as well, in another colour."
        ),
    ] = False,
    counterfactual: Annotated[
        bool,
        typer.Option("--counterfactual", help="Show what speaks against the class."),
    ] = False,
    similar: Annotated[
        int | None,
        typer.Option(
            "--similar",
            metavar="N",
            show_default=False,
            help="With finer-cam: compare with the N classes whose scores are nearest. Default: 3.",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="INDEX|NAME",
            show_default=False,
            help="With finer-cam: compare with this class; may be passed several times.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="A",
            show_default=False,
            help="With finer-cam: which share of their mean score to take away. Default: 0.6.",
        ),
    ] = None,
    smooth: Annotated[
        int | None,
        typer.Option(
            "--smooth",
            metavar="N",
            show_default=False,
            help="Average the heatmap over N noisy copies of the picture.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where the overlays go, as STEM-CLASS.png; made if it is not there.",
        ),
    ] = Path("overlays"),
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Write a page of all pictures as well, to be searched, sorted and filtered in a "
            "browser; one file that needs no other.",
        ),
    ] = None,
    colormap: Annotated[
        str | None,
        typer.Option(
            "--colormap",
            metavar="NAME",
            show_default=False,
            help="A Matplotlib colormap. Default: viridis, and with --signed one from blue, "
            "against the class, to red, for it.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", metavar="0..1", help="How opaque the heatmap is where it is hottest."
        ),
    ] = 0.65,
    preprocess: options.Preprocess = None,
    class_names: options.ClassNames = None,
    imports: options.Imports = None,
    unsafe: options.Unsafe = False,
    force: options.Force = False,
) -> None:
    """Explain pictures and write the overlays; the arguments are the options of the command.

    Args:
        images: Files of pictures, and folders of them.
        model: File of a model, or name of one of ``keras.applications``.
        target: Index or name of the class to explain.
        top: How many of the classes with the highest scores to explain.
        method: Name of the method.
        layer: Names, paths or indices of the layers.
        logits: Whether to explain the score before the final softmax or sigmoid.
        signed: Whether the heatmap keeps its sign.
        counterfactual: Whether to show what speaks against the class.
        similar: How many classes to compare with, those whose scores are nearest.
        reference: Indices or names of the classes to compare with.
        strength: How strongly to compare.
        smooth: Over how many noisy copies of a picture to average.
        output: Folder for the overlays.
        html: File for the report.
        colormap: Name of a Matplotlib colormap.
        alpha: The greatest opacity of the heatmap.
        preprocess: How pixels become the input of a model file.
        class_names: File with the names of the classes of a model file.
        imports: Modules and ``.py`` files to import before a model file is loaded.
        unsafe: Whether Python code in a model file may run.
        force: Whether to replace files that the command did not make.

    Raises:
        typer.Exit: With code 2, if anything asked for could not be done; with code 130, if it was
            interrupted.
    """
    try:
        if target is not None and top is not None:
            raise RunError("--top and --target exclude each other: pass one of them")
        if similar is not None and reference:
            raise RunError("--similar and --reference exclude each other: pass one of them")
        request = _Request(
            target=target,
            # The embedded picture holds two objects.
            top=top if top is not None else 1 if images else 2,
            layers=options.layer_keys(layer),
            output=output,
            html=html,
            colormap=colormap,
            alpha=alpha,
            method=METHODS[options.known("--method", method, list(METHODS))],
            asked={
                "logits": logits,
                "relu": not signed,
                "counterfactual": counterfactual,
                "references": similar,
                "alpha": strength,
                "smooth": smooth,
            },
            references=reference or (),
        )
        _check(request)
        of_model = models.ModelOptions(model, preprocess, class_names, imports or (), unsafe)
        models.check_model_options("explain", of_model, images or [])
        paths = expanded(images or [])
        guard = Guard.of(force, paths, of_model)
        if html is not None:
            guard.check("--html", html, PAGE)
            guard.keep("the page", html)
        names = None if class_names is None else models.read_class_names(class_names)
        classifier = models.load(of_model, names)
        if model is None and paths:
            say("Note", "cyan", "without --model, the demo model tells its own toy objects apart")
        code = _explain(_sources(paths), classifier, request, guard)
    except RunError as error:
        say("Error", "red", str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:  # before the first picture, or for the second time
        say("Error", "red", "interrupted")
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


# Options, checked before anything slow


def _check(request: _Request) -> None:
    if request.top < 1:
        raise RunError(f"--top must be at least 1, got {request.top}")
    if request.top > _MOST:
        raise RunError(
            f"--top may be at most {_MOST}, got {request.top}: each class is an overlay of its "
            "own; in Python, explain_prediction takes any number as top_targets"
        )
    if not 0 <= request.alpha <= 1:  # also False for NaN
        raise RunError(f"--alpha must lie between 0 and 1, got {request.alpha:g}")
    if (request.asked["smooth"] or 0) < 0:
        raise RunError(f"--smooth must be at least 0, got {request.asked['smooth']}")
    similar, strength = request.asked["references"], request.asked["alpha"]
    if similar is not None and similar < 1:
        raise RunError(f"--similar must be at least 1, got {similar}")
    if strength is not None and not 0 <= strength < np.inf:  # also False for NaN
        raise RunError(f"--strength must be at least 0, and finite, got {strength:g}")
    _check_method(request)
    check_writable("--output", request.output, is_folder=True)
    if request.html is not None:
        check_writable("--html", request.html)
    if request.colormap is None:
        return
    from matplotlib import colormaps

    if request.colormap not in colormaps:
        near = nearest(request.colormap, list(colormaps))
        raise RunError(
            f"unknown --colormap {request.colormap!r}"
            f"{near or '; Matplotlib lists the names in matplotlib.colormaps'}"
        )


def _check_method(request: _Request) -> None:
    """Raise RunError if the method cannot do what is asked of it.

    The library's own check comes with Keras.
    """
    for option, is_asked, ability in (
        ("--signed", not request.asked["relu"], "is_signed"),
        ("--counterfactual", request.asked["counterfactual"], "has_counterfactual"),
    ):
        if is_asked and not getattr(request.method, ability):
            able = ", ".join(name for name, other in METHODS.items() if getattr(other, ability))
            raise RunError(
                f"--method {request.method.name} cannot do {option}; those that can are {able}"
            )
    for option, is_asked in (
        ("--similar", request.asked["references"] is not None),
        ("--reference", bool(request.references)),
        ("--strength", request.asked["alpha"] is not None),
    ):
        if is_asked and not request.method.compares:
            able = ", ".join(name for name, other in METHODS.items() if other.compares)
            raise RunError(
                f"--method {request.method.name} has no use for {option}: it compares no classes, "
                f"as {able} does"
            )


# Explaining


def _sources(paths: Sequence[Path]) -> list[Source]:
    if paths:
        return [source_of(path) for path in paths]
    from kerasight import demo

    return [Source("demo picture", "demo", lambda: to_rgba(demo.load_picture()))]


def _explain(
    sources: Sequence[Source], classifier: Classifier, request: _Request, guard: Guard
) -> int:
    """Explain picture after picture, and write and print what there is of it.

    Returns:
        The exit code.
    """
    rows: list[OverlayRow] = []
    failures: list[str] = []
    at = "the first picture"

    def fail(name: str, error: str) -> None:
        say("Error", "red", f"{name}: {error}")
        failures.append(name)

    def explanations() -> Iterator[Explanation]:
        nonlocal at
        for number, source in enumerate(sources, start=1):
            at = f"{source.name}, {number} of {len(sources)}"
            describe(bar, f"{source.name} ({number} of {len(sources)})")
            expl = _answer(source, classifier, request, is_first=not rows)
            try:
                for row in _write_overlays(expl, source, request, guard):
                    rows.append(row)  # one by one: those before an error count
            except PictureError as error:
                expl = replace(expl, error=str(error))
            if expl.error:
                fail(source.name, expl.error)
            yield expl
            bar.update()

    reported = 0
    code = 0
    with closing(progress(len(sources))) as bar:
        try:
            found = explanations()
            if request.html is not None:
                # What is wrong with the model or an option shows before there is a page.
                found = itertools.chain([next(found)], found)
                try:
                    reported = _write_report(request.html, found, sources, request)
                except OSError as error:
                    fail(str(request.html), f"cannot be written: {reason(error)}")
            for _ in found:
                pass
        except KeyboardInterrupt:
            say("Error", "red", f"interrupted at {at}")
            code = 130
    _print(rows, request, reported)
    return code or (2 if failures else 0)


def _answer(
    source: Source, classifier: Classifier, request: _Request, is_first: bool
) -> Explanation:
    from kerasight.base import Explanation

    picture = None
    try:
        picture = source.read()
        return _explained(source, picture, classifier, request, is_first)
    except PictureError as error:
        return Explanation(classifier.model.name, error=str(error), image=picture)


def _explained(
    source: Source,
    picture: Image.Image,
    classifier: Classifier,
    request: _Request,
    is_first: bool,
) -> Explanation:
    from kerasight.base import HeatmapWarning
    from kerasight.keras.explain_prediction import explanation_of, top_indices
    from kerasight.keras.heatmaps import heatmaps_of

    model, question = classifier.model, request.question_of(classifier)
    doc = classifier.to_doc(picture)
    chosen = models.find_sites(model, doc, request.layers)
    if request.target is None:
        wanted = top_indices(request.top)
    else:
        wanted = np.array([_class_index("--target", request.target, classifier)])
    if is_first:
        models.check_scores(model, doc, question)
    with models.failing_on_the_picture():
        (found,) = heatmaps_of(model, doc, wanted[np.newaxis], chosen, question)
        if isinstance(found, ValueError):
            raise found
    scores = found[0].terms.scores
    models.check_names(classifier.names, len(scores))
    if is_first and request.top > len(scores):
        classes = _number(len(scores), "class", "es")
        say("Note", "cyan", f"--top {request.top} explains all that there are: {classes}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HeatmapWarning)
        expl = explanation_of(model, doc, found, picture, classifier.names, question)
    for warning in caught:
        say("Warning", "yellow", f"{source.name}: {as_options(reason(warning.message))}")
    return expl


def _class_index(option: str, target: str, classifier: Classifier) -> int:
    """The index of the class that an option names."""
    from kerasight.keras.backends.common import check_target
    from kerasight.keras.record import class_index

    names = classifier.names
    if models.is_integer(target):
        classes = models.number_of_classes(classifier.model)
        try:
            if classes is not None:  # or each picture would be answered so
                check_target(int(target), classes, option.strip("-"))
            return class_index(int(target))
        except ValueError as error:
            raise RunError(reason(error)) from None
    if names is None:
        raise RunError(
            f"{option} {target!r} is no index, and the names of the classes are not known; pass an "
            "index, or --class-names"
        )
    found = [index for index, name in enumerate(names) if plain(name) == plain(target)]
    if not found:
        raise RunError(f"no class is called {target!r}{nearest(target, names)}")
    if len(found) > 1:
        raise RunError(
            f"several classes are called {target!r}; pass one of the indices "
            f"{', '.join(map(str, found))}"
        )
    return found[0]


# Overlays and report


def _write_overlays(
    expl: Explanation, source: Source, request: _Request, guard: Guard
) -> Iterator[OverlayRow]:
    """Write an overlay for each class, and give its line of the table."""
    from kerasight.formatters.text import format_score

    for target in expl.targets or ():
        index = int(target.target)
        part = f"{source.stem}-{_file_part(target.name, index)}"
        overlay = _write_overlay(replace(expl, targets=[target]), part, request, guard)
        assert target.score is not None
        yield OverlayRow(
            image=source.name,
            label=str(index) if target.name is None else target.label,
            score=format_score(target.score, target.is_probability),
            layer=expl.layer or "",
            overlay=str(overlay),
        )


def _file_part(name: str | None, index: int) -> str:
    """A class as part of a file name."""
    safe = re.sub(r"[^\w.-]+", "_", name or "").strip("_")[:80]
    return safe or str(index)


def _write_overlay(expl: Explanation, name: str, request: _Request, guard: Guard) -> Path:
    from kerasight.formatters.image import format_as_image

    path = _free_path(request.output, name, guard)
    overlay = format_as_image(expl, colormap=request.colormap, alpha_limit=request.alpha)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(overlay, path)
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {reason(error)}") from None
    return path


def _free_path(folder: Path, name: str, guard: Guard) -> Path:
    """A file that this run has not written yet, nor the user; it is kept from now on."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    path = next(
        path
        for path in (folder / f"{name}{ending}.png" for ending in endings)
        if guard.what(path) is None and (guard.force or is_own(path, OVERLAY))
    )
    guard.keep("an overlay of this run", path)
    return path


def _write_report(
    path: Path, expls: Iterator[Explanation], sources: Sequence[Source], request: _Request
) -> int:
    """Write the page of all explanations; how many there are."""
    from kerasight.formatters.html import write_report

    path.parent.mkdir(parents=True, exist_ok=True)
    return write_report(
        expls,
        path,
        names=[printable(source.name) for source in sources],
        colormap=request.colormap,
        alpha_limit=request.alpha,
    )


# What the user reads


def _print(rows: Sequence[OverlayRow], request: _Request, reported: int) -> None:
    """Print the table, and what was written where."""
    out = console(sys.stdout)
    if rows:
        print_overlays(out, rows)
        out.print()
    # Grad-CAM as it always was goes without saying.
    title = request.question.title
    by = "" if title == METHODS["grad-cam"].title else f" by {title}"
    lines = [
        f"{_number(len(rows), 'overlay')}{by} written to {request.output}"
        if rows
        else "No overlay written"
    ]
    if reported:
        lines.append(f"{_number(reported, 'picture')} shown in {request.html}")
    for line in lines:
        out.print(Text(printable(line)), soft_wrap=True)


def _number(number: int, thing: str, plural: str = "s") -> str:
    return f"{number} {thing}{'' if number == 1 else plural}"
