"""``kerasight explain``: pictures in, overlays and a table of classes and scores out."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

from kerasight.cam.baselines import BASELINES
from kerasight.cam.methods import DEFAULT, METHODS, Method
from kerasight.cam.request import Request
from kerasight.checks import nearest, plain, plural
from kerasight.classifiers import models
from kerasight.classifiers.pictures import Source, quiet_decoders
from kerasight.cli import options
from kerasight.cli.console import (
    Told,
    as_options,
    describe,
    log_said,
    progress,
    say,
    standard_output,
)
from kerasight.cli.files import PAGE, Guard, check_writable
from kerasight.cli.overlays import FORMATS, draw_overlay, free_path, path_in_job
from kerasight.cli.sources import sources_of
from kerasight.cli.tables import MOST_ROWS, OverlayRow, print_overlays
from kerasight.errors import PictureError, SetupError, reason
from kerasight.escapes import printable
from kerasight.jobs.pipeline import Item, Pipeline

if TYPE_CHECKING:
    from kerasight.base import Explanation
    from kerasight.classifiers.models import Classifier
    from kerasight.jobs.job import Question
    from kerasight.jobs.parts import Row
    from kerasight.jobs.sources import Entry
    from kerasight.ray import Cluster

__all__ = ["HELP", "command"]

_MOST = 100  # overlays of a picture

HELP = (
    "Show where a model looked in pictures. Writes overlays of the pictures with the heatmap of a "
    "class, and prints a table of class, score, layer and file.\n\n"
    "Without IMAGES and --model, the embedded demo model explains its embedded picture."
)


@dataclass(frozen=True)
class _Request:
    """What the options ask for, about classes, heatmap, overlay and report.

    Attributes:
        model: What the page calls the model.
        target: The class, as the user names it.
        top: How many of the best classes to explain, if none is named.
        layers: The layers; none to have one chosen.
        output: The folder of the overlays; None if there are to be none.
        suffix: The ending of their names.
        is_draft: Whether pictures may be read at a fraction of their size.
        html: The file of the report, if there is to be one.
        look: How heatmaps are drawn, as arguments of `kerasight.format_as_image`.
        asked: What the library is asked for, but for classes that only the model knows.
        references: The classes to compare with, as the user names them.
    """

    model: str
    target: str | None
    top: int
    layers: Sequence[int | str]
    output: Path | None
    suffix: str
    is_draft: bool
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
class _Picture(Item):
    """A picture on its way, and its overlays.

    Attributes:
        paths: Where the overlays go.
        rows: A line for each that is written.
    """

    paths: list[Path] = field(default_factory=list)
    rows: list[OverlayRow] = field(default_factory=list)


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
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            show_default=False,
            help="The folder of the overlays, STEM-CLASS.png, in subfolders as the pictures are. "
            "Made if it does not exist. Default: overlays.",
        ),
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            "--job",
            metavar="FOLDER",
            show_default=False,
            help="Keep numbers and heatmaps in this folder, as Parquet, and overlays in its folder "
            "overlays. Run again, the command goes on where it stopped. IMAGES may also be a tar, "
            "or a CSV or Parquet file with a column of paths.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            show_default=False,
            help="With --job: the column of a CSV or Parquet file that has the paths. Default: "
            "path.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            show_default=False,
            help="With --job and --no-overlays: have workers of a cluster explain, by ray. "
            "Default: this process.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            show_default=False,
            help="With --engine: where the cluster is. Default: RAY_ADDRESS, or one that is "
            "started here.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            show_default=False,
            help="With --engine: how many processes explain, of a CPU each. Default: as many as "
            "there is room for.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            show_default=False,
            help=f"The format of the overlays: {', '.join(FORMATS)}. jpeg is quickest and small, "
            "and has transparent pictures on white. Default: png.",
        ),
    ] = None,
    no_overlays: Annotated[
        bool,
        typer.Option("--no-overlays", help="Only explain; write no overlays."),
    ] = False,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft",
            help="With --no-overlays: read JPEGs that are far larger than the model's input at a "
            "fraction of their size. It takes half the time; scores differ by 0.01 or so.",
        ),
    ] = False,
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
    colormap: options.Colormap = None,
    alpha: options.Alpha = 0.65,
    outliers: options.Outliers = None,
    absolute: options.Absolute = False,
    blur: options.Blur = 0,
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
        for option, value in (("--output", output), ("--format", form)):
            if no_overlays and value is not None:
                raise SetupError(f"--no-overlays and {option} exclude each other: leave one out")
        if draft and (not no_overlays or html is not None):
            raise SetupError(
                "--draft is for numbers alone: pass --no-overlays, and leave --html out"
            )
        if job is None and column is not None:
            raise SetupError("--column is for the tables of a job: pass --job")
        if job is not None:
            _check_job(job, images, html, force)
        cluster = _cluster(engine, address, workers)
        if cluster is not None and (job is None or not no_overlays):
            raise SetupError("--engine is for the numbers of a job: pass --job and --no-overlays")
        if form is not None:
            form = options.known("--format", form, list(FORMATS))
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
            output=None if no_overlays else output or Path(job or "", "overlays"),
            suffix=FORMATS[form or "png"],
            is_draft=draft,
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
        if job is not None:
            if model is None:
                _say_demo()
            code = _go_on(
                job,
                images or [],
                request,
                told,
                cluster,
                # Of what the options leave open, the job itself says how it is settled.
                model=model,
                preprocess=preprocess,
                class_names=names,
                top_targets=top,
                column=column or "path",
                imports=imports or (),
                unsafe=unsafe,
                **{one.name: asked[one.name] for one in fields(Request) if one.name in asked},
            )
            raise typer.Exit(code)
        sources = sources_of(images or [], told) if images else [_demo_source()]
        guard = Guard.of(force, [source.path for source in sources if source.path], of_model)
        if html is not None:
            guard.check("--html", html, PAGE)
            guard.keep("the page", html)
        code = 2
        if all(source.problem for source in sources):
            _print([], request)
        else:
            with log_said():
                classifier = models.load(of_model, names)
            if model is None and images:
                _say_demo()
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
    if request.output is not None:
        check_writable("--output", request.output, is_folder=True)
    if request.html is not None:
        check_writable("--html", request.html)
    options.check_look(request.look)


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


def _say_demo() -> None:
    say("Note", "cyan", "without --model, the demo model is used, which knows only toy objects")


def _demo_source() -> Source:
    from kerasight import demo

    return Source("demo picture", "demo", lambda: demo.load_picture().convert("RGBA"))


def _explain(sources: Sequence[Source], run: _Run) -> int:
    """Explain pictures, and write and print what there is of them.

    Returns:
        The exit code.
    """
    code = reported = 0
    with quiet_decoders(), run.pipeline, closing(progress(len(sources))) as run.bar:
        try:
            found = run.explanations(map(_Picture, sources))
            if run.request.html is not None:
                try:
                    reported = _write_report(run.request.html, found, sources, run.request)
                except OSError as error:
                    run.told.fail(str(run.request.html), f"cannot be written: {reason(error)}")
            for _ in found:
                pass
        except KeyboardInterrupt:
            code = 130
            # What was explained before is still written.
            for picture in run.pipeline.rest():
                run.conclude(picture)
    run.told.finish()
    if code:
        say("Error", "red", f"interrupted: {run.done} of {plural(len(sources), 'picture')} done")
    _print(run.rows, run.request, run.number, reported)
    return code or (2 if run.told.failures else 0)


class _Run:
    """What is asked of every picture.

    Attributes:
        done: How many pictures are done.
        number: How many classes are explained, and have their overlays if there are to be any.
        rows: A line for each of them, as far as they are printed.
    """

    def __init__(self, classifier: Classifier, request: _Request, guard: Guard, told: Told) -> None:
        """The classes asked for are looked up at once."""
        from kerasight.keras.wanted import class_target, top_classes

        self.request = request
        self.guard = guard
        self.told = told
        self.bar: Any = None
        self.done = self.number = 0
        self.rows: list[OverlayRow] = []
        self._is_top_told = False
        if request.target is None:
            target = top_classes(None, request.top)
        else:
            target = class_target(_class_index("--target", request.target, classifier))
        self.pipeline = Pipeline(
            classifier,
            request.of(classifier),
            target=target,
            layers=request.layers,
            needs_pictures=request.output is not None or request.html is not None,
            is_draft=request.is_draft,
            begin=self._describe,
            explained=self._tell,
            finish=None if request.output is None else self._write,
        )

    def explanations(self, pictures: Iterable[_Picture]) -> Iterator[Explanation]:
        """Do everything about pictures; gives explanations, in order, when all of it is done."""
        for picture in self.pipeline.run(pictures):
            yield self.conclude(picture)
            self.bar.update()

    def conclude(self, picture: _Picture) -> Explanation:
        """Tell what came of a picture, and count it; gives the explanation."""
        assert picture.expl is not None
        error = as_options(picture.error)
        if error and not picture.source.problem:
            is_unread = not picture.is_read
            self.told.fail(picture.source.name, error, common=picture.common, one_by_one=is_unread)
        self.done += 1
        self.number += len(picture.rows)
        self.rows += picture.rows[: MOST_ROWS - len(self.rows)]
        return replace(picture.expl, error=error)

    def _tell(self, picture: _Picture) -> None:
        """Tell what is said of heatmaps, and say where the overlays go."""
        assert picture.expl is not None
        targets = picture.expl.targets or ()
        if targets and len(targets) < self.request.top and not self._is_top_told:
            self._is_top_told = True
            classes = plural(len(targets), "class")
            say(
                "Note",
                "cyan",
                f"--top {self.request.top} is more than the model's {classes}; all are explained",
            )
        for warning in map(as_options, picture.warnings):
            # Less the class and the layer.
            common = warning.partition(" is blank or nearly so: ")[2]
            self.told.warn(
                picture.source.name,
                warning,
                common=common and f"the heatmap is blank or nearly so: {common}",
            )
        if self.request.output is None:
            picture.rows += [_row(picture, place) for place in range(len(targets))]
            return
        stem = self.request.output / picture.source.stem
        for target in targets:
            picture.paths.append(free_path(stem, target, self.request.suffix, self.guard))

    def _write(self, picture: _Picture) -> None:
        """Write an overlay for each class; those before an error count."""
        assert picture.expl is not None
        for place, path in enumerate(picture.paths):
            draw_overlay(picture.expl, place, path, self.request.look)
            picture.rows.append(_row(picture, place, path))

    def _describe(self, pictures: Sequence[_Picture]) -> None:
        name = pictures[0].source.name
        describe(self.bar, f"{name} ({self.bar.n + 1} of {self.bar.total})")


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


# Jobs


def _check_job(job: Path, images: Sequence[Path] | None, html: Path | None, force: bool) -> None:
    """Raise SetupError if a job cannot be asked so."""
    if html is not None:
        raise SetupError(
            "--job and --html exclude each other: the page is made of a job by kerasight report "
            f"{job} --html {html}"
        )
    if force:
        raise SetupError("--job and --force exclude each other: a job replaces its own files alone")
    if not images:
        raise SetupError(
            "--job needs pictures: pass a folder, a table or a tar, as in kerasight explain "
            f"photos --job {job}"
        )
    check_writable("--job", job, is_folder=True)


def _cluster(engine: str | None, address: str | None, workers: int | None) -> Cluster | None:
    """What explains, if it is not this process."""
    if engine is None:
        for option, value in (("--address", address), ("--workers", workers)):
            if value is not None:
                raise SetupError(f"{option} is for an engine: pass --engine ray")
        return None
    options.known("--engine", engine, ["ray"])
    if importlib.util.find_spec("ray") is None:
        raise SetupError('--engine ray: Ray is not installed: pip install "kerasight[ray]"')
    from kerasight.ray import Cluster

    try:
        return Cluster(address, workers)
    except ValueError as error:
        raise SetupError(f"--{error}") from None


def _go_on(
    folder: Path,
    images: Sequence[Path],
    request: _Request,
    told: Told,
    cluster: Cluster | None,
    **asked: Any,
) -> int:
    """Explain into the folder of a job what is not explained there, and print what came of it.

    Args:
        folder: The job's folder.
        images: The pictures, or what names them.
        request: What the options ask for.
        told: What is told of pictures.
        cluster: What explains, if it is not this process.
        **asked: What the job is asked, by the names of `kerasight.jobs.run`.

    Returns:
        The exit code.
    """
    from kerasight.jobs.job import carry_out, question_of

    pictures = images[0] if len(images) == 1 else list(images)
    done = 0
    common: dict[str, str] = {}  # what a picture's error shares with others

    def write(item: Item) -> None:
        assert request.output is not None
        assert item.expl is not None
        try:
            for place in range(len(item.expl.targets or ())):
                path = path_in_job(request.output, item.key, item.expl, place, request.suffix)
                draw_overlay(item.expl, place, path, request.look)
        except PictureError as error:
            common[item.key] = getattr(error, "common", "")
            raise

    def explain(pictures: Iterator[Entry]) -> Iterator[list[Row]]:
        nonlocal done
        if cluster is not None:
            found = cluster.rows(question.explainer, pictures)
        else:
            found = question.explain(pictures, None if request.output is None else write)
        for rows in found:
            if error := rows[0].get("error"):
                key = rows[0]["key"]
                told.fail(key, as_options(error), common=common.pop(key, ""))
            yield rows
            done += 1

    with log_said():
        question = question_of(pictures, layer=request.layers, draft=request.is_draft, **asked)
        question = _with_classes(question, request)
        try:
            finished = carry_out(
                folder,
                question.pictures,
                explain,
                asked=question.asked,
                facts=question.facts,
                versions=question.versions,
            )
        except KeyboardInterrupt:
            told.finish()
            say(
                "Error",
                "red",
                f"interrupted: {plural(done, 'picture')} done; the same command goes on",
            )
            return 130
        except OSError as error:
            told.finish()
            say("Error", "red", reason(error))
            return 2
    told.finish()
    lines = [
        f"{plural(finished.done, 'picture')} explained{_by(request)}, {finished.failed} failed, "
        f"{finished.skipped} explained before",
        f"Rows written to {folder}",
    ]
    if request.output is not None:
        lines[1] += f", overlays to {request.output}"
    with standard_output() as out:
        for line in lines:
            out.print(Text(printable(line)), soft_wrap=True)
    return 2 if told.failures else 0


def _with_classes(question: Question, request: _Request) -> Question:
    """A job's question with the classes that the options name, of which the model knows more."""
    asked, explainer = dict(question.asked), question.explainer
    if request.target is not None:
        index = _class_index("--target", request.target, explainer.classifier())
        asked["targets"] = [index]
        explainer = explainer.asked(targets=[index])
    if request.references:
        asked["references"] = request.of(explainer.classifier()).references
        explainer = explainer.asked(references=asked["references"])
    asked = json.loads(json.dumps(asked))
    return replace(question, asked=asked, explainer=explainer)


# Overlays and report


def _row(picture: _Picture, place: int, path: Path | None = None) -> OverlayRow:
    """The line of a class, and of its overlay if there is one."""
    from kerasight.formatters.text import format_score

    assert picture.expl is not None
    assert picture.expl.targets is not None
    target = picture.expl.targets[place]
    assert target.score is not None
    return OverlayRow(
        image=picture.source.name,
        label=str(target.target) if target.name is None else target.label,
        score=format_score(target.score, target.is_probability),
        layer=picture.expl.layer or "",
        overlay="" if path is None else str(path),
    )


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


def _by(request: _Request) -> str:
    """By which method; Grad-CAM as it always was goes without saying."""
    title = request.asked.title
    return "" if title == DEFAULT.title else f" by {title}"


def _print(
    rows: Sequence[OverlayRow], request: _Request, number: int = 0, reported: int = 0
) -> None:
    """Print the table of what was explained first, and what was written where."""
    by = _by(request)
    if request.output is None:
        lines = [f"{plural(number, 'heatmap')}{by}, and no overlay written"]
    elif number:
        lines = [f"{plural(number, 'overlay')}{by} written to {request.output}"]
    else:
        lines = ["No overlay written"]
    if reported:
        lines.append(f"{plural(reported, 'picture')} shown in {request.html}")
    with standard_output() as out:
        if rows:
            print_overlays(out, rows, number - len(rows))
            out.print()
        for line in lines:
            out.print(Text(printable(line)), soft_wrap=True)
