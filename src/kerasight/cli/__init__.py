"""The ``kerasight`` command.

Keras and TensorFlow take seconds to import, so only the functions that need them import them: help
and errors in the options come at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from kerasight.classifiers.models import QUIET
from kerasight.cli import audit, evaluate, explain, report
from kerasight.cli.console import say, standard_output
from kerasight.errors import SetupError, reason

__all__ = ["app", "main"]


_NARROW = 60  # columns, in which typer's boxes cut the names of options


class _PlainHelp:
    """Help that shows only what the user types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, without types where no value is to be written: newer typer shows them."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif param.param_type_name == "argument" and hasattr(param, "display_type_rich"):
                param.metavar = param.name.upper()  # brackets and dots are put around it
                param.display_type_rich = lambda ctx: ""
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write help, without boxes where there is no room for them."""
        columns = shutil.get_terminal_size().columns
        if columns < _NARROW:
            self.rich_markup_mode: Any = None
            formatter.width = columns - 1
            formatter.write_dl = partial(formatter.write_dl, col_max=4)  # the text below the name
        super().format_help(ctx, formatter)  # type: ignore[misc]


class _Command(_PlainHelp, TyperCommand):
    pass


class _Group(_PlainHelp, TyperGroup):
    """All commands; an interrupt that none handles prints one line, instead of typer's."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options of the group."""
        with _interrupts_answered():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the options of a command, and run it."""
        with _interrupts_answered():
            return super().invoke(ctx)


@contextlib.contextmanager
def _interrupts_answered() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:  # before the first picture, or for the second time
        say("Error", "red", "interrupted")
        raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    # The long tracebacks of rich print local variables, whole arrays among them.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, module, short in (
    ("explain", explain, "Show where a model looked in pictures."),
    ("evaluate", evaluate, "Compare methods by metrics."),
    ("report", report, "Make a page of what a job has explained."),
    ("audit", audit, "Find what the heatmaps of a job have in common."),
):
    app.command(name, cls=_Command, help=module.HELP, short_help=short)(module.command)


def main() -> None:
    """Run the command, as installed under the name ``kerasight``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET)
    for name in ("stdout", "stderr"):
        # The next file would get the number of a closed stream, and the text meant for the stream.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python's own form tells the place in the code, and quotes the line.
    warnings.showwarning = lambda message, *_: say("Warning", "yellow", reason(message))
    code: Any = 0
    try:
        with standard_output():  # of help and version; of commands, each answers for its own
            try:
                app(prog_name="kerasight")
            except SystemExit as end:
                code = end.code
    except SetupError as error:
        say("Error", "red", str(error))
        code = 2
    sys.exit(code)


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
