"""``kerasight report``: a job in, a page of its explanations out, without the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from kerasight.checks import plural
from kerasight.cli import options
from kerasight.cli.console import progress, say, standard_output
from kerasight.cli.files import PAGE, Guard, check_writable
from kerasight.errors import SetupError, reason
from kerasight.escapes import printable
from kerasight.jobs import manifest, parts
from kerasight.jobs.reading import explanations

if TYPE_CHECKING:
    from kerasight.base import Explanation

__all__ = ["HELP", "command"]

_PICTURES = 1000
_LEAST = (448, 448)  # of a picture on the page

HELP = (
    "Make a page of what a job has explained, to search, sort and filter in a browser. The model "
    "is not needed; pictures are read again, from where the job had them.\n\n"
    "The job may still be running: the page shows what it has written so far."
)


def command(
    job: options.Job,
    html: Annotated[
        Path,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="The page. It is one file that needs no other.",
        ),
    ],
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures",
            metavar="N",
            help="Show the first N pictures of the job, at most: each takes some 40 kB.",
        ),
    ] = _PICTURES,
    colormap: options.Colormap = None,
    alpha: options.Alpha = 0.65,
    outliers: options.Outliers = None,
    absolute: options.Absolute = False,
    blur: options.Blur = 0,
    force: options.Force = False,
) -> None:
    """Write the page; the arguments are the options of the command.

    Raises:
        typer.Exit: With code 2, if that cannot be done.
    """
    look = {
        "colormap": colormap,
        "alpha_limit": alpha,
        "outliers": outliers,
        "absolute": absolute,
        "blur": blur,
    }
    try:
        if pictures < 1:
            raise SetupError(f"--pictures must be at least 1, got {pictures}")
        options.check_look(look)
        found = manifest.manifest_of(job)
        check_writable("--html", html)
        guard = Guard(force)
        guard.keep("a file of the job", job / manifest.NAME, *parts.paths_of(job))
        guard.check("--html", html, PAGE)
        number = _number_of(job)
        if not number:
            raise SetupError(f"{job}: nothing is explained yet")
        _write(job, html, found, min(pictures, number), number, look)
    except SetupError as error:
        say("Error", "red", str(error))
        raise typer.Exit(2) from None


def _number_of(job: Path) -> int:
    """How many pictures there are in a job; each has one row that is its first."""
    import pyarrow.compute as pc

    return sum(
        pc.sum(pc.equal(pc.fill_null(batch["place"], 0), 0)).as_py()
        for batch in parts.batches_of(job, ["place"])
    )


def _write(
    job: Path,
    html: Path,
    found: manifest.Manifest,
    shown: int,
    number: int,
    look: Mapping[str, Any],
) -> None:
    """Write the page, and tell what is not on it."""
    from kerasight.formatters.html import write_report

    gone = 0

    def there(pairs: Iterator[tuple[str, Explanation]]) -> Iterator[Explanation]:
        nonlocal gone
        for _, expl in pairs:
            bar.update()
            if expl.image is None and not expl.error:
                gone += 1
                expl = replace(expl, error="its picture is not there any more, or has changed")
            yield expl

    first = itertools.islice(explanations(job, least=_LEAST), shown)
    for_names, for_page = itertools.tee(first)
    with closing(progress(shown)) as bar:
        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            write_report(
                there(for_page),
                html,
                names=(printable(key) for key, _ in for_names),
                facts={
                    "Model": printable(str(found.facts.get("model", ""))),
                    "Job": printable(str(job)),
                    "Date": found.made.replace("T", " "),
                },
                **look,
            )
        except OSError as error:
            raise SetupError(f"{html} cannot be written: {reason(error)}") from None
    if shown < number:
        say(
            "Note",
            "cyan",
            f"the page shows the first {shown:,} of {number:,} pictures; --pictures takes more",
        )
    if gone:
        say(
            "Warning",
            "yellow",
            f"{plural(gone, 'picture')} cannot be shown: not there any more, or changed",
        )
    with standard_output() as out:
        line = f"{plural(shown, 'picture')} of {job} shown in {html}"
        out.print(Text(printable(line)), soft_wrap=True)
