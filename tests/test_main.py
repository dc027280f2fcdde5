"""The command from its first line on: what an interrupt does before the command can answer it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HOLD = "import sys; print('importing', flush=True); sys.stdin.read()\n"  # until the interrupt


def script() -> list[str]:
    """What the installed script runs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^kerasight = "([\w.]+):(\w+)"$', text, re.MULTILINE)
    assert found
    return ["-c", f"import sys; from {found[1]} import {found[2]}; sys.exit({found[2]}())"]


def interrupted(
    program: list[str], folder: Path, module: str, source: str = HOLD, ignored: bool = False
) -> tuple[int, str]:
    """Interrupt the command while it imports a module; its exit code, and standard error."""
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    command = [sys.executable, *program, "explain", "-o", str(folder / "overlays")]
    reset = (
        f"import os, signal, sys; signal.signal(signal.SIGINT, signal.{handler.name}); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return interrupted_at("importing", [reset, *command], folder, PYTHONPATH=str(folder))


def interrupted_at(
    line: str, command: list[str], folder: Path, **environment: str
) -> tuple[int, str]:
    """Interrupt Python code once it has printed a line; its exit code, and standard error."""
    with subprocess.Popen(
        [sys.executable, "-c", *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{line}\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    return process.returncode, told


@pytest.mark.parametrize("module", ["typer", "numpy", "keras"])
@pytest.mark.parametrize("program", [["-m", "kerasight"], script()], ids=["module", "script"])
def test_an_interrupt_while_a_module_is_imported_is_one_line(
    program: list[str], module: str, tmp_path: Path
) -> None:
    assert interrupted(program, tmp_path, module) == (130, "Error: interrupted\n")


@pytest.mark.parametrize("module", ["numpy", "keras"])
@pytest.mark.parametrize(
    "made",
    [
        "raise ImportError('initialization failed') from None",  # as by pybind11
        "sys.excepthook(ValueError, ValueError('failed'), None); raise ImportError from None",
        "pass",
    ],
)
def test_it_is_so_whatever_the_module_makes_of_it(made: str, module: str, tmp_path: Path) -> None:
    source = f"try:\n    {HOLD}except KeyboardInterrupt:\n    {made}"
    told = interrupted(["-m", "kerasight"], tmp_path, module, source)
    assert told == (130, "Error: interrupted\n")


def test_it_is_so_after_the_import_if_that_goes_on(tmp_path: Path) -> None:
    source = (
        f"try:\n    {HOLD}except KeyboardInterrupt:\n"
        "    sys.path.remove(__file__.removesuffix('/keras.py'))\n"
        "    del sys.modules['keras']\n"
        "    import keras\n"
    )
    told = interrupted(["-m", "kerasight"], tmp_path, "keras", source)
    assert told == (130, "Error: interrupted\n")


def test_where_interrupts_are_ignored_they_are(tmp_path: Path) -> None:
    source = "import sys; print('importing', flush=True); sys.stdin.readline()\nraise SystemExit(7)"
    assert interrupted(["-m", "kerasight"], tmp_path, "typer", source, ignored=True) == (7, "")


def test_once_all_is_said_an_interrupt_ends_python_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit(7)", encoding="utf-8")
    code = (
        "import atexit, signal, sys; from kerasight.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(lambda: print('ending', flush=True) or sys.stdin.read())\n"
        "main()"
    )
    assert interrupted_at("ending", [code], tmp_path) == (-signal.SIGINT, "")
