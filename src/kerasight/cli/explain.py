"""``kerasight explain``: pictures in, overlays and a table of classes and scores out."""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

from kerasight.cam.baselines import BASELINES
from kerasight.cam.methods import DEFAULT, METHODS, Method
from kerasight.checks import nearest, plain, plural
from kerasight.classifiers import models
from kerasight.classifiers.pictures import Source, quiet_decoders
from kerasight.cli import options
from kerasight.cli.ahead import ahead
from kerasight.cli.console import (
    Told,
    as_options,
    describe,
    log_said,
    progress,
    say,
    standard_output,
)
from kerasight.cli.files import PAGE, Guard, check_writable, is_made_here, write_png
from kerasight.cli.sources import sources_of
from kerasight.cli.tables import OverlayRow, print_overlays
from kerasight.errors import PictureError, SetupError, reason
from kerasight.escapes import printable
from kerasight.files import OVERLAY
from kerasight.interrupts import Heard

if TYPE_CHECKING:
    from PIL import Image

    from kerasight.base import Explanation, TargetExplanation
    from kerasight.cam.request import Request
    from kerasight.classifiers.models import Classifier
    from kerasight.keras.explainer import Look

__all__ = ["HELP", "command"]

_MOST = 100  # overlays of a picture

HELP = (
    "Show where a model looked in pictures. Writes overlays of the pictures with the heatmap of a "
    "class, and prints a table of class, score, layer and file.\n\n"
    "Without IMAGES and --model, the embedded demo model explains its embedded picture."
)


# Enough pictures to keep model and threads busy, and no more of them than fit into memory: of each
# pixel of a picture of average size there are some 40 bytes while its overlay is drawn.
_THREADS = 4
_AT_ONCE = 16  # through the model
_VALUES = 4_000_000  # in the inputs of these
_PICTURES = 32  # being read, and as many being written
_PIXELS = 32_000_000  # in these


@dataclass(frozen=True)
class _Request:
    """What the options ask for, about classes, heatmap, overlay and report.

    Attributes:
        model: What the page calls the model.
        target: The class, as the user names it.
        top: How many of the best classes to explain, if none is named.
        layers: The layers; none to have one chosen.
        output: The folder of the overlays.
        html: The file of the report, if there is to be one.
        look: How heatmaps are drawn, as arguments of `kerasight.format_as_image`.
        asked: What the library is asked for, but for classes that only the model knows.
        references: The classes to compare with, as the user names them.
    """

    model: str
    target: str | None
    top: int
    layers: Sequence[int | str]
    output: Path
    html: Path | None
    look: Mapping[str, Any]
    asked: Request
    references: Sequence[str]

    def of(self, classifier: Classifier) -> Request:
        """What the library is asked for, once the model is there."""
        if not self.references:
            return self.asked
        indices = [_class_index("--reference", one, classifier) for one in self.references]
        return replace(self.asked, references=tuple(dict.fromkeys(indices)))


@dataclass(eq=False)
class _Job:
    """A picture on its way: read, explained, drawn and written.

    Attributes:
        source: Where it comes from.
        picture: The picture, from when it is read until all is done.
        doc: The model's input.
        error: Why it, or a part of it, could not be done.
        common: What part of the error other pictures share; all, if empty.
        expl: The explanation.
        paths: Where the overlays go.
        rows: A line for each overlay that is written.
        is_done: Whether nothing is left to do.
    """

    source: Source
    picture: Image.Image | None = None
    doc: np.ndarray | None = None
    error: str = ""
    common: str = ""
    expl: Explanation | None = None
    paths: list[Path] = field(default_factory=list)
    rows: list[OverlayRow] = field(default_factory=list)
    is_done: bool = False

    @cached_property
    def weight(self) -> float:
        """What it takes of memory, as a share of what all that are worked on may take."""
        pixels = self.source.pixels()
        return 1.0 if pixels is None else max(pixels / _PIXELS, 1 / _PICTURES)

    def fail(self, error: Exception) -> None:
        """Note why it could not be done."""
        self.error = as_options(str(error))
        self.common = getattr(error, "common", "")


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
            help="The class to explain: its index, or its name if names are known. "
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
            "overlay of its own. Default: 1; for the embedded picture, which has two objects, 2.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default=False,
            help=f"{options.METHOD_NAMES}. Default: grad-cam, and hirescam for tokens.",
        ),
    ] = None,
    layer: options.Layers = None,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="Explain the score before the final softmax or sigmoid."),
    ] = False,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed", help="Also show what speaks against the class, in another colour."
        ),
    ] = False,
    counterfactual: Annotated[
        bool,
        typer.Option("--counterfactual", help="Show only what speaks against the class."),
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
            help="With finer-cam: the share of their mean score to subtract. Default: 0.6.",
        ),
    ] = None,
    grid: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--grid",
            metavar="ROWS COLUMNS",
            show_default=False,
            help="The cells that a transformer cuts a picture into. Default: as the model tells.",
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
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            metavar="SHARE",
            show_default=False,
            help="With --smooth or smoothgrad: the deviation of the noise, as a share of the range "
            "of the picture. Default: 0.1.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            show_default=False,
            help="With methods that look at many changed pictures: at how many. Default: 50 to "
            "4,000, by method.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="NAME|NUMBER",
            show_default=False,
            help="With methods that compare with nothing: what stands for it, of zero, mean, blur, "
            "noise, or a number. Default: by method.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            metavar="N",
            show_default=False,
            help="With occlusion, rise and kernel-shap: the side of the squares that are hidden, "
            "in pixels of the model's input. Default: a seventh of it.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            metavar="N",
            show_default=False,
            help="With occlusion: how far the square moves at a time. Default: half its side.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The folder of the overlays, STEM-CLASS.png, in subfolders as the pictures are. "
            "Made if it does not exist.",
        ),
    ] = Path("overlays"),
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Also write a page of all pictures, to search, sort and filter in a browser. It "
            "is one file that needs no other.",
        ),
    ] = None,
    colormap: Annotated[
        str | None,
        typer.Option(
            "--colormap",
            metavar="NAME",
            show_default=False,
            help="A Matplotlib colormap. Default: viridis; with --signed, from blue (against the "
            "class) to red (for it).",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option("--alpha", metavar="0..1", help="Opacity of the heatmap where it is hottest."),
    ] = 0.65,
    outliers: Annotated[
        float | None,
        typer.Option(
            "--outliers",
            metavar="0..100",
            show_default=False,
            help="How many cells, in per cent, are drawn as hot as the hottest, so that a few do "
            "not darken the rest. Default: 1 for heatmaps of more than 64 x 64 cells, else 0.",
        ),
    ] = None,
    absolute: Annotated[
        bool,
        typer.Option("--absolute", help="With --signed: draw the size of the heat alone."),
    ] = False,
    blur: Annotated[
        float,
        typer.Option(
            "--blur",
            metavar="0..100",
            help="Smooth the heatmap by a Gaussian. Its standard deviation, in per cent of the "
            "heatmap's longer side.",
        ),
    ] = 0,
    preprocess: options.Preprocess = None,
    class_names: options.ClassNames = None,
    imports: options.Imports = None,
    unsafe: options.Unsafe = False,
    force: options.Force = False,
) -> None:
    """Explain pictures and write the overlays; the arguments are the options of the command.

    Raises:
        typer.Exit: With code 2, if anything failed; with code 130, if it was interrupted.
    """
    # All that the library is asked for, by its names.
    asked = {**locals(), "relu": not signed, "references": similar, "alpha": strength}
    try:
        if target is not None and top is not None:
            raise SetupError("--top and --target exclude each other: pass one of them")
        if similar is not None and reference:
            raise SetupError("--similar and --reference exclude each other: pass one of them")
        if method is not None:
            asked["method"] = options.known("--method", method, list(METHODS))
        asked["baseline"] = _number_or_name("--baseline", baseline)
        _check_method(METHODS[asked["method"] or DEFAULT.name], asked, reference or ())
        request = _Request(
            model=model or "the demo model",
            target=target,
            # The embedded picture holds two objects.
            top=top if top is not None else 1 if images else 2,
            layers=options.layer_keys(layer),
            output=output,
            html=html,
            look={
                "colormap": colormap,
                "alpha_limit": alpha,
                "outliers": outliers,
                "absolute": absolute,
                "blur": blur,
            },
            asked=options.request_of(asked),
            references=reference or (),
        )
        _check(request)
        of_model = models.ModelOptions(model, preprocess, class_names, imports or (), unsafe)
        models.check_model_options("explain", of_model, images or [])
        names = None if class_names is None else models.read_class_names(class_names)
        for option, named in (
            ("--target", target),
            *(("--reference", one) for one in reference or ()),
        ):
            _check_class(option, named, names, of_model)
        told = Told()
        sources = sources_of(images or [], told) if images else [_demo_source()]
        guard = Guard.of(force, [source.path for source in sources if source.path], of_model)
        if html is not None:
            guard.check("--html", html, PAGE)
            guard.keep("the page", html)
        code = 2
        if all(source.problem for source in sources):
            _print([], request, 0)
        else:
            with log_said():
                classifier = models.load(of_model, names)
            if model is None and images:
                say(
                    "Note",
                    "cyan",
                    "without --model, the demo model is used, which knows only toy objects",
                )
            code = _explain(sources, _Run(classifier, request, guard, told))
    except SetupError as error:
        say("Error", "red", as_options(str(error)))
        raise typer.Exit(2) from None
    if code:
        raise typer.Exit(code)


# Options, checked before anything slow


def _check(request: _Request) -> None:
    if request.top < 1:
        raise SetupError(f"--top must be at least 1, got {request.top}")
    if request.top > _MOST:
        raise SetupError(
            f"--top may be at most {_MOST}, got {request.top}: each class is an overlay of its "
            "own; in Python, explain_prediction takes any number as top_targets"
        )
    alpha = request.look["alpha_limit"]
    if not 0 <= alpha <= 1:  # also False for NaN
        raise SetupError(f"--alpha must lie between 0 and 1, got {alpha:g}")
    for name in ("outliers", "blur"):
        share = request.look[name]
        if share is not None and not 0 <= share <= 100:
            raise SetupError(f"--{name} must lie between 0 and 100 per cent, got {share:g}")
    check_writable("--output", request.output, is_folder=True)
    if request.html is not None:
        check_writable("--html", request.html)
    colormap = request.look["colormap"]
    if colormap is None:
        return
    with Heard():
        from matplotlib import colormaps

    if colormap not in colormaps:
        near = nearest(colormap, list(colormaps))
        raise SetupError(
            f"unknown --colormap {colormap!r}"
            f"{near or '; Matplotlib lists the names in matplotlib.colormaps'}"
        )


def _number_or_name(option: str, baseline: str | None) -> str | float | None:
    """A baseline as the library takes it."""
    try:
        return None if baseline is None else float(baseline)
    except ValueError:
        return options.known(option, str(baseline), list(BASELINES))


def _check_method(method: Method, asked: Mapping[str, Any], references: Sequence[str]) -> None:
    """Raise SetupError if a method cannot do what is asked of it; in the words of the command."""
    for option, is_asked, ability in (
        ("--signed", not asked["relu"], "is_signed"),
        ("--counterfactual", asked["counterfactual"], "has_counterfactual"),
        ("--layer", bool(asked["layer"]), "sees_layers"),
    ):
        if is_asked and not getattr(method, ability):
            able = ", ".join(name for name, other in METHODS.items() if getattr(other, ability))
            raise SetupError(
                f"--method {method.name} cannot do {option}; those that can are {able}"
            )
    for option, is_asked in (
        ("--similar", asked["references"] is not None),
        ("--reference", bool(references)),
        ("--strength", asked["alpha"] is not None),
    ):
        if is_asked and not method.compares:
            able = ", ".join(name for name, other in METHODS.items() if other.compares)
            raise SetupError(
                f"--method {method.name} cannot use {option}: only {able} compares classes"
            )


def _check_class(
    option: str,
    target: str | None,
    names: Sequence[str] | None,
    of_model: models.ModelOptions,
) -> None:
    """Raise SetupError if there cannot be such a class, so far as is known without the model."""
    if of_model.model is None:
        from kerasight import demo

        names = demo.CLASS_NAMES
    # The classes of a file have the names that were passed, or none.
    is_file = os.path.isfile(of_model.model or "")
    if target is not None and (names is not None or is_file or models.is_integer(target)):
        _index_of(option, target, names)


def _index_of(option: str, target: str, names: Sequence[str] | None) -> int:
    """The index of the class that an option names, where the classes are called as ``names``."""
    if models.is_integer(target):
        if int(target) < 0:
            raise SetupError(f"{option} {target} is no class: classes are numbered from 0")
        return int(target)
    if names is None:
        raise SetupError(
            f"{option} {target!r} is no index, and the names of the classes are not known; pass an "
            "index, or --class-names"
        )
    found = [index for index, name in enumerate(names) if plain(name) == plain(target)]
    if not found:
        raise SetupError(f"no class is called {target!r}{nearest(target, names)}")
    if len(found) > 1:
        raise SetupError(
            f"several classes are called {target!r}; pass one of the indices "
            f"{', '.join(map(str, found))}"
        )
    return found[0]


# Explaining


def _demo_source() -> Source:
    from kerasight import demo

    return Source("demo picture", "demo", lambda: demo.load_picture().convert("RGBA"))


def _explain(sources: Sequence[Source], run: _Run) -> int:
    """Explain pictures, and write and print what there is of them.

    Returns:
        The exit code.
    """
    jobs = [_Job(source) for source in sources]
    code = reported = 0
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    with quiet_decoders(), closing(progress(len(sources))) as run.bar:
        try:
            found = run.explanations(jobs, pool)
            if run.request.html is not None:
                try:
                    reported = _write_report(run.request.html, found, sources, run.request)
                except OSError as error:
                    run.told.fail(str(run.request.html), f"cannot be written: {reason(error)}")
            for _ in found:
                pass
        except KeyboardInterrupt:
            code = 130
        finally:
            run.is_over = True
            # What was explained before an interrupt is still written.
            pool.shutdown(cancel_futures=code != 130)
    for job in jobs:
        if job.is_done and job.expl is not None:
            run.conclude(job)
    run.told.finish()
    if code:
        done = sum(job.is_done for job in jobs)
        say("Error", "red", f"interrupted: {done} of {plural(len(jobs), 'picture')} done")
    _print([row for job in jobs for row in job.rows], run.request, reported)
    return code or (2 if run.told.failures else 0)


class _Run:
    """What is asked of every picture.

    Pictures are read, and overlays drawn and written, in threads beside the model, which takes
    pictures in batches.
    """

    def __init__(self, classifier: Classifier, request: _Request, guard: Guard, told: Told) -> None:
        """The classes asked for are looked up at once."""
        from kerasight.keras.explainer import Batches, Explainer
        from kerasight.keras.wanted import class_target, top_classes

        self.model = classifier.model
        self.names = classifier.names
        self.to_doc = classifier.to_doc
        self.request = request
        asked = request.of(classifier)
        self.looks = Batches(Explainer(self.model, asked, names=self.names))
        self.guard = guard
        self.told = told
        self.bar: Any = None
        if request.target is None:
            self.target = top_classes(None, request.top)
        else:
            self.target = class_target(_class_index("--target", request.target, classifier))
        # A slow method runs the model on many inputs for each picture, in batches of its own.
        is_slow = asked.smooth or asked.method.is_slow
        self._most_at_once = 1 if is_slow else _AT_ONCE
        self._at_once = 1
        self.is_over = False
        self._is_checked = False
        self._is_top_told = False

    def explanations(self, jobs: Sequence[_Job], pool: Executor) -> Iterator[Explanation]:
        """Do everything about pictures; gives explanations, in order, when all of it is done."""

        def weigh(job: _Job) -> float:
            return job.weight

        read = ahead(pool, self._read, jobs, weigh)
        explained = itertools.chain.from_iterable(map(self._explained, self._batches(read)))
        for job in ahead(pool, self._written, explained, weigh):
            yield self.conclude(job)
            self.bar.update()

    def conclude(self, job: _Job) -> Explanation:
        """Tell what went wrong with a picture, and free what it took; gives the explanation."""
        if job.error and not job.source.problem:
            is_unread = job.picture is None
            self.told.fail(job.source.name, job.error, common=job.common, one_by_one=is_unread)
        assert job.expl is not None
        expl = replace(job.expl, error=job.error)
        job.picture = job.doc = job.expl = None
        return expl

    def _read(self, job: _Job) -> _Job:
        if self.is_over:
            return job
        try:
            if job.source.problem:
                raise PictureError(job.source.problem)
            with models.failing_on_the_picture():
                job.picture = job.source.read()
                job.doc = self.to_doc(job.picture)
        except PictureError as error:
            job.fail(error)
        return job

    def _batches(self, jobs: Iterator[_Job]) -> Iterator[list[_Job]]:
        """Pictures that go through the model together: their inputs are alike, and they fit."""
        batch: list[_Job] = []
        for job in jobs:
            docs = [other.doc for other in (*batch, job) if other.doc is not None]
            if batch and (
                len(batch) >= self._at_once
                or sum(other.weight for other in (*batch, job)) > 1
                or sum(doc.size for doc in docs) > _VALUES
                or len({(doc.shape, doc.dtype) for doc in docs}) > 1
            ):
                yield batch
                # The first by itself, so that there is soon something to see, and to keep.
                self._at_once = min(8 * self._at_once, self._most_at_once)
                batch = []
            batch.append(job)
        yield batch

    def _explained(self, jobs: list[_Job]) -> list[_Job]:
        from kerasight.base import Explanation

        describe(self.bar, f"{jobs[0].source.name} ({self.bar.n + 1} of {self.bar.total})")
        self._explain([job for job in jobs if job.doc is not None])
        for job in jobs:
            if job.expl is None:
                job.expl = Explanation(self.model.name, error=job.error, image=job.picture)
        return jobs

    def _explain(self, jobs: Sequence[_Job]) -> None:
        """Explain pictures that have inputs; what fails has its error noted."""
        if not jobs:
            return
        docs, look = np.concatenate([job.doc for job in jobs if job.doc is not None]), None
        try:
            self._check(docs[:1])
            with models.failing_on_the_picture():
                look = self.looks.look(docs, self.target)
        except PictureError as error:
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
        if look is None:
            for job in jobs:
                self._explain([job])
            return
        for place, job in enumerate(jobs):
            try:
                self._answer(job, look, place)
            except PictureError as error:
                job.fail(error)

    def _check(self, doc: np.ndarray) -> None:
        """What is wrong with the model, or with what is asked of it, shows here."""
        if self._is_checked:
            return
        explainer = self.looks.explainer
        layers = models.find_sites(self.model, doc, self.request.layers)
        models.check_scores(self.model, doc, explainer.request)
        self.looks = replace(self.looks, explainer=replace(explainer, layer=layers))
        self._is_checked = True

    def _answer(self, job: _Job, look: Look, place: int) -> None:
        """Make the explanation, and say where its overlays go."""
        from kerasight.base import HeatmapWarning

        assert job.picture is not None
        scores = look.records[0].scores[place]
        models.check_class_names(self.names, len(scores))
        if self.request.top > len(scores) and not self._is_top_told:
            self._is_top_told = True
            classes = plural(len(scores), "class")
            say(
                "Note",
                "cyan",
                f"--top {self.request.top} is more than the model's {classes}; all are explained",
            )

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HeatmapWarning)
            with models.failing_on_the_picture():
                job.expl = look.explanation(place, job.picture)
        for warning in caught:
            text = as_options(reason(warning.message))
            # Less the class and the layer.
            common = text.partition(" is blank or nearly so: ")[2]
            self.told.warn(
                job.source.name,
                text,
                common=common and f"the heatmap is blank or nearly so: {common}",
            )
        for target in job.expl.targets or ():
            part = f"{job.source.stem}-{_file_part(target.name, int(target.target))}"
            job.paths.append(_free_path(self.request.output, part, self.guard))

    def _written(self, job: _Job) -> _Job:
        """Write an overlay for each class; those before an error count."""
        assert job.expl is not None
        try:
            for target, path in zip(job.expl.targets or (), job.paths, strict=True):
                expl = replace(job.expl, targets=[target])
                with models.failing_on_the_picture():
                    _write_overlay(expl, path, self.request)
                job.rows.append(_row(job, target, path))
        except PictureError as error:
            job.fail(error)
        job.is_done = True
        return job


def _class_index(option: str, target: str, classifier: Classifier) -> int:
    """The index of the class that an option names."""
    from kerasight.keras.targets import check_classes
    from kerasight.keras.wanted import class_index

    index = _index_of(option, target, classifier.names)
    classes = models.number_of_classes(classifier.model)
    try:
        if classes is not None:  # or each picture would be answered so
            check_classes(np.array(index), classes, option.strip("-"))
        return class_index(index)
    except ValueError as error:
        raise SetupError(reason(error)) from None


# Overlays and report


def _row(job: _Job, target: TargetExplanation, path: Path) -> OverlayRow:
    """The line of an overlay."""
    from kerasight.formatters.text import format_score

    assert job.expl is not None
    assert target.score is not None
    return OverlayRow(
        image=job.source.name,
        label=str(target.target) if target.name is None else target.label,
        score=format_score(target.score, target.is_probability),
        layer=job.expl.layer or "",
        overlay=str(path),
    )


def _file_part(name: str | None, index: int) -> str:
    """A class as part of a file name."""
    safe = re.sub(r"[^\w.-]+", "_", name or "").strip("_")[:80]
    return safe or str(index)


class _OverlayError(PictureError):
    """An overlay cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        """The disk is full for all of them, and their names do not matter then."""
        super().__init__(f"{path} cannot be written: {reason(error)}")
        self.common = f"overlays cannot be written: {reason(error)}"


def _write_overlay(expl: Explanation, path: Path, request: _Request) -> None:
    from kerasight.formatters.image import format_as_image

    overlay = format_as_image(expl, **request.look)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(overlay, path)
    except OSError as error:
        raise _OverlayError(path, error) from None


def _free_path(folder: Path, name: str, guard: Guard) -> Path:
    """A file that this run has not written yet, nor the user; it is kept from now on."""
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    path = next(
        path
        for path in (folder / f"{name}{ending}.png" for ending in endings)
        if guard.what(path) is None and (guard.force or is_made_here(path, OVERLAY))
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
        facts={
            "Model": printable(request.model),
            "Date": datetime.now().astimezone().isoformat(" ", "minutes"),
        },
        **request.look,
    )


# What the user reads


def _print(rows: Sequence[OverlayRow], request: _Request, reported: int) -> None:
    """Print the table, and what was written where."""
    lines = ["No overlay written"]
    if rows:
        # Grad-CAM as it always was goes without saying.
        title = request.asked.title
        by = "" if title == DEFAULT.title else f" by {title}"
        lines = [f"{plural(len(rows), 'overlay')}{by} written to {request.output}"]
    if reported:
        lines.append(f"{plural(reported, 'picture')} shown in {request.html}")
    with standard_output() as out:
        if rows:
            print_overlays(out, rows)
            out.print()
        for line in lines:
            out.print(Text(printable(line)), soft_wrap=True)
