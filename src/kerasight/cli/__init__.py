"""The ``kerasight`` command.

Keras and TensorFlow take seconds to import, so each comes with the function that needs it: help and
mistakes in the options are answered at once.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from kerasight.cli import evaluate, explain
from kerasight.cli.models import QUIET

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    # The long tracebacks of rich print local variables, whole arrays among them.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("explain", help=explain.HELP)(explain.command)
app.command("evaluate", help=evaluate.HELP)(evaluate.command)


def main() -> None:
    """Run the command, as installed under the name ``kerasight``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="kerasight")


def _print_version(wanted: bool) -> None:
    if wanted:
        import kerasight

        typer.echo(f"kerasight {kerasight.__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    help="Shows where a Keras image classifier looked.",
)
def _command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
