"""``kerasight audit``: a job in, out comes what its heatmaps have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from kerasight.checks import plural
from kerasight.cli import options
from kerasight.cli.console import say, standard_output
from kerasight.cli.files import PAGE, Guard, check_writable
from kerasight.errors import SetupError, reason
from kerasight.escapes import printable
from kerasight.jobs import manifest, parts

__all__ = ["HELP", "command"]

HELP = (
    "Find what the heatmaps of a job have in common that chance does not explain: pictures of a "
    "class that are hot in one place where those of other classes are not, as on a watermark; heat "
    "at the border, in the corners, or outside of the object.\n\n"
    "The model is not needed. What is needed is scikit-learn, the extra audit of kerasight."
)


def command(
    job: options.Job,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Write a page with the pictures that show each finding, and with all classes.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER",
            show_default=False,
            help="Masks of the objects: white on black, called as the pictures are.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="CSV",
            show_default=False,
            help="Boxes of the objects: columns key, left, top, right and bottom, from 0 to 1.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of how classes are divided.")
    ] = 0,
    force: options.Force = False,
) -> None:
    """Print what was found, and write the page; the arguments are the options of the command.

    Raises:
        typer.Exit: With code 2, if that cannot be done.
    """
    try:
        if seed < 0:
            raise SetupError(f"--seed must be at least 0, got {seed}")
        manifest.manifest_of(job)
        if html is not None:
            check_writable("--html", html)
            guard = Guard(force)
            guard.keep("a file of the job", job / manifest.NAME, *parts.paths_of(job))
            guard.keep("the file of boxes", boxes)
            guard.check("--html", html, PAGE)
        _audit(job, html, masks, boxes, seed)
    except SetupError as error:
        say("Error", "red", str(error))
        raise typer.Exit(2) from None


def _audit(job: Path, html: Path | None, masks: Path | None, boxes: Path | None, seed: int) -> None:
    from kerasight.auditing.findings import audit

    try:
        found = audit(job, masks=masks, boxes=boxes, seed=seed)
    except ImportError as error:
        raise SetupError(str(error)) from None
    if html is not None:
        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            found.write_html(html)
        except OSError as error:
            raise SetupError(f"{html} cannot be written: {reason(error)}") from None
    with standard_output() as out:
        for line in str(found).splitlines():
            out.print(Text(printable(line)), soft_wrap=True)
        if html is not None:
            line = f"\n{plural(len(found.findings), 'finding')} of {job} shown in {html}"
            out.print(Text(printable(line, keep="\n")), soft_wrap=True)
