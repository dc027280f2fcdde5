"""``kerasight evaluate``: a comparison of methods, as a table and a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.text import Text

from kerasight.cam.methods import METHODS
from kerasight.checks import plural
from kerasight.classifiers import models
from kerasight.classifiers.pictures import (
    Source,
    pictures_in,
    quiet_decoders,
    read_mask,
)
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
from kerasight.cli.files import GrowingFile, Guard, check_writable
from kerasight.cli.sources import sources_of
from kerasight.cli.tables import print_numbers
from kerasight.errors import PictureError, SetupError, reason
from kerasight.escapes import printable
from kerasight.metrics.columns import METRICS
from kerasight.metrics.comparison import csv_heading

if TYPE_CHECKING:
    from kerasight.classifiers.models import Classifier
    from kerasight.metrics.comparison import Row
    from kerasight.metrics.evaluation import Study
    from kerasight.metrics.result import Evaluation

__all__ = ["HELP", "command"]

HELP = (
    "Compare methods: explain pictures by each method, and judge the heatmaps by each metric. "
    "Prints a table of means, in which an asterisk marks the best of a column, and writes every "
    "number to a CSV file.\n\n"
    "Without IMAGES and --model, the embedded demo model explains embedded pictures, half of them "
    "of one object, half of two, with masks of the objects."
)

_PICTURES = 24
_NOTHING = "No picture evaluated"
_TABLE = ",".join(csv_heading([])).encode()  # the command knows its files by this
_WIDE = 160  # columns of a terminal, in which headings and errors have room
_DRAWN_SIZE = 192  # the embedded model sees it at 96 x 96


class _Input(NamedTuple):
    """A picture as the study takes it.

    Attributes:
        doc: The model's input, with batch axis.
        targets: The classes to explain; None for the best.
        masks: The mask of the object of each class.
    """

    doc: np.ndarray
    targets: Sequence[int] | None
    masks: Sequence[np.ndarray | None] | None


class _Case(NamedTuple):
    """A picture that is not read yet.

    Attributes:
        name: Its name for the user.
        read: Reads or draws it.
    """

    name: str
    read: Callable[[], _Input]


class _Lines:
    """The lines of the CSV file, written picture by picture.

    Attributes:
        path: The file, which the lines replace in the end.
        number: How many lines there are.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        """No line is written yet; ``metrics`` are the names of the metrics."""
        self.path = path
        self.number = 0
        self._metrics = metrics
        self._file = GrowingFile(path, _TABLE)

    def write(self, rows: Sequence[Row]) -> None:
        """Write lines at once, so that an interrupt does not lose them.

        Raises:
            OSError: If writing fails; then none of the lines is written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.number:
            writer.writerow(csv_heading(self._metrics))
        writer.writerows(row.cells(self._metrics) for row in rows)
        self._file.write(text.getvalue())
        self.number += len(rows)

    def finish(self, is_whole: bool) -> None:
        """Move the file to its path, or beside an earlier file if this one is incomplete.

        Raises:
            OSError: If that fails.
        """
        self.path = self._file.finish(is_whole)


def command(
    images: options.Images = None,
    model: options.Model = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default=False,
            help=f"A method to judge; may be passed several times. {options.METHOD_NAMES}. "
            "Default: all class activation maps. Score-CAM and Ablation-CAM take a run for each "
            "channel of the layer, and Opti-CAM a hundred forward and backward passes.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            show_default=False,
            help=f"A metric to judge by; may be passed several times. {', '.join(METRICS)}. "
            "Default: all but the last; the first two need masks.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER",
            show_default=False,
            help="Masks of the objects: for each picture a picture of the same name, with any "
            "ending, black outside the object.",
        ),
    ] = None,
    layer: options.Layers = None,
    logits: Annotated[
        bool | None,
        typer.Option(
            "--logits/--probabilities",
            show_default=False,
            help="Explain the score before the final softmax or sigmoid, or the score after it, "
            "which the metrics always watch. Default: logits, where they can be found.",
        ),
    ] = None,
    random: Annotated[
        bool,
        typer.Option(
            "--random/--no-random",
            show_default=False,
            help="Judge heatmaps of noise as well, which every method should beat. Default: yes.",
        ),
    ] = True,
    pictures: Annotated[
        int | None,
        typer.Option(
            "--pictures",
            metavar="N",
            show_default=False,
            help=f"How many of the embedded pictures to take. Default: {_PICTURES}.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Number of steps of deletion and insertion.")
    ] = 50,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", help="Seed of embedded pictures, random heatmaps and noise."
        ),
    ] = 0,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The CSV file: a line for each picture, class and method.",
        ),
    ] = Path("evaluation.csv"),
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    preprocess: options.Preprocess = None,
    class_names: options.ClassNames = None,
    imports: options.Imports = None,
    unsafe: options.Unsafe = False,
    force: options.Force = False,
) -> None:
    """Evaluate methods on pictures; the arguments are the options of the command.

    Raises:
        typer.Exit: With code 2, if anything failed; with code 130, if it was interrupted.
    """
    try:
        for option, value, least in (
            ("--pictures", pictures, 1),
            ("--steps", steps, 1),
            ("--seed", seed, 0),
        ):
            if value is not None and value < least:
                raise SetupError(f"{option} must be at least {least}, got {value}")
        methods = [options.known("--method", name, list(METHODS)) for name in method or ()]
        metrics = [options.known("--metric", name, list(METRICS)) for name in metric or ()]
        check_writable("--output", output)
        of_model = models.ModelOptions(model, preprocess, class_names, imports or (), unsafe)
        models.check_model_options("evaluate", of_model, images or [])
        _check_pictures(images or [], masks, pictures, metrics)
        told = Told()
        sources = sources_of(images or [], told)
        of_stems = {} if masks is None else _masks(masks, sources)
        guard = Guard.of(force, [source.path for source in sources if source.path], of_model)
        guard.keep("one of the masks", *of_stems.values())
        guard.check("--output", output, _TABLE)
        names = None if class_names is None else models.read_class_names(class_names)
        sound = [source for source in sources if not source.problem]
        if sources and not sound:
            with standard_output() as out:
                out.print(_NOTHING)
            raise typer.Exit(2)
        with log_said():
            classifier = models.load(of_model, names)
        if model is None and sources:
            say(
                "Note",
                "cyan",
                "without --model, the demo model is used, which knows only toy objects",
            )
        if masks is not None:
            _warn_of_missing(sound, of_stems)

        from kerasight.metrics.evaluation import Study

        study = Study.of(
            classifier.model,
            methods=methods or None,
            metrics=metrics or None,
            logits=logits,
            steps=steps,
            random=random,
            progress=False,  # its own bar moves within a picture
            seed=seed,
        )
        if sources:
            cases = [_case_of(one, of_stems.get(one.stem), classifier) for one in sound]
        else:
            cases = _demo_cases(pictures or _PICTURES, seed)
        lines = _Lines(output, [one.name for one in study.metrics])
        with quiet_decoders():
            code = _evaluate(
                study, cases, classifier, options.layer_keys(layer), lines, told, markdown
            )
    except SetupError as error:
        say("Error", "red", as_options(str(error)))
        raise typer.Exit(2) from None
    if code:
        raise typer.Exit(code)


# Options, checked before anything slow


def _check_pictures(
    images: Sequence[Path], masks: Path | None, pictures: int | None, metrics: Sequence[str]
) -> None:
    """Raise SetupError if the options about pictures exclude each other."""
    if images and pictures is not None:
        raise SetupError("--pictures is for the embedded pictures; leave it out, or the images")
    if masks is not None and not images:
        raise SetupError("--masks is for pictures of your own; the embedded pictures have masks")
    if masks is not None and not masks.is_dir():
        raise SetupError(
            f"--masks {masks}: {'not a folder' if masks.exists() else 'no such folder'}"
        )
    for name in metrics:
        if METRICS[name].needs_mask and images and masks is None:
            raise SetupError(f"--metric {name} needs --masks")


def _masks(folder: Path, sources: Sequence[Source]) -> dict[str, Path]:
    """The masks of pictures, by their paths below the folder without the ending."""
    found: dict[str, Path] = {}
    wanted = {source.stem for source in sources}
    for stem, path in pictures_in(folder):
        if stem in wanted and stem in found:
            raise SetupError(
                f"--masks {folder}: two masks of one name, {found[stem].name} and {path.name}"
            )
        found[stem] = path
    if not wanted & found.keys():
        raise SetupError(
            f"--masks {folder}: no mask for any of the pictures; the mask of cat.jpg is cat.png, "
            "or cat with another ending"
        )
    return found


def _warn_of_missing(sources: Sequence[Source], masks: Mapping[str, Path]) -> None:
    """Warn of pictures without a mask."""
    missing = [source.name for source in sources if source.stem not in masks]
    if missing:
        more = f" and {len(missing) - 1} more of {len(sources)}" if len(missing) > 1 else ""
        say("Warning", "yellow", f"no mask for {missing[0]}{more}")


# Pictures


def _case_of(source: Source, mask: Path | None, classifier: Classifier) -> _Case:
    def read() -> _Input:
        doc = classifier.to_doc(source.read())
        if mask is None:
            return _Input(doc, None, None)
        try:
            return _Input(doc, None, [read_mask(mask)])
        except PictureError as error:
            raise PictureError(f"its mask {mask}: {error}") from None

    return _Case(source.name, read)


def _demo_cases(number: int, seed: int) -> list[_Case]:
    """Embedded pictures, in turns of one object and of two, each object with its mask.

    One random generator draws them in order, so a smaller number gives the first of a larger one.
    """
    from kerasight import demo

    random = np.random.default_rng(seed)

    def read(draw: Callable[..., Any]) -> _Input:
        picture = draw(random, size=_DRAWN_SIZE)
        return _Input(demo.preprocess(picture.image), picture.labels, picture.masks)

    draws = (demo.draw_picture, demo.draw_pair)
    return [
        _Case(f"demo picture {place + 1}", partial(read, draws[place % 2]))
        for place in range(number)
    ]


# Evaluating


def _evaluate(
    study: Study,
    cases: Sequence[_Case],
    classifier: Classifier,
    layers: Sequence[int | str],
    lines: _Lines,
    told: Told,
    markdown: bool,
) -> int:
    """Evaluate the pictures one by one, write the lines, and print the table.

    Returns:
        The exit code.
    """
    rows: list[Row] = []
    code = 0
    is_written = True
    try:
        with closing(progress(len(cases), in_steps=True)) as bar:
            for place, case in enumerate(cases):
                study.tell = _teller(bar, f"{case.name} ({place + 1} of {len(cases)})", place)
                study.tell("", 0)
                try:
                    given = None
                    given = case.read()
                    if not rows:
                        _check(study, given.doc, classifier, layers)
                    with models.failing_on_the_picture():
                        found = study.rows(
                            given.doc,
                            targets=given.targets,
                            masks=given.masks,
                            target_names=classifier.names,
                            name=case.name,
                            position=place,
                        )
                    rows += found
                    if is_written:
                        lines.write(found)
                except OSError as error:
                    if not lines.number:
                        raise SetupError(
                            f"{lines.path} cannot be written: {reason(error)}"
                        ) from None
                    say("Error", "red", f"{lines.path} cannot be written: {reason(error)}")
                    code = 2
                    is_written = False  # a file with a gap would look complete
                except PictureError as error:
                    told.fail(case.name, as_options(str(error)), one_by_one=given is None)
                except KeyboardInterrupt:
                    say("Error", "red", f"interrupted at {case.name}, {place + 1} of {len(cases)}")
                    code = 130
                    break
                study.tell("", 1)
    finally:
        told.finish()
        code = max(code, _finish(lines, is_whole=is_written and code != 130))
    code = max(code, 2 if told.failures else 0)
    _print(study.evaluation(rows), lines, markdown)
    return code


def _finish(lines: _Lines, is_whole: bool) -> int:
    """Move the table to its path; gives the exit code."""
    try:
        lines.finish(is_whole)
    except OSError as error:
        say("Error", "red", f"{lines.path} cannot be written: {reason(error)}")
        return 2
    return 0


def _teller(bar: Any, name: str, place: int) -> Callable[[str, float], None]:
    """Moves the bar within a picture."""

    def tell(step: str, share: float) -> None:
        bar.update(place + share - bar.n)
        describe(bar, name, step)  # which draws it

    return tell


def _check(
    study: Study, doc: np.ndarray, classifier: Classifier, layers: Sequence[int | str]
) -> None:
    """Raise SetupError if the model cannot be evaluated so, whatever the picture."""
    from kerasight.keras.record import scores_of

    if layers:
        study.layer = models.find_sites(classifier.model, doc, layers)
    with models.failing_on_the_picture():
        models.check_class_names(classifier.names, scores_of(classifier.model, doc).shape[1])
    for request in study.requests:
        if not (study.leaves_out and request.method.compares):
            models.check_scores(classifier.model, doc, request)


# What the user reads


def _print(evaluation: Evaluation, lines: _Lines, markdown: bool) -> None:
    """Print the table, its summary, and what was written."""
    with standard_output() as out:
        if not evaluation.rows:
            out.print(_NOTHING)
            return
        if markdown:
            out.print(Text(evaluation.to_markdown()), soft_wrap=True)
        else:
            (head, *rows), (short, *_) = evaluation.table(), evaluation.table(is_short=True)
            print_numbers(out, head, short, rows)
        summary = evaluation.summary("picture", mark="Bold" if markdown else "*")
        for line in ("", *summary, f"{plural(lines.number, 'line')} written to {lines.path}"):
            out.print(Text(printable(line)), soft_wrap=True)
