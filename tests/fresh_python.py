"""A Python of its own, to see what a program imports, prints and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = {"jax", "keras", "matplotlib", "pandas", "pyarrow", "tensorflow", "torch", "tqdm"}


def run_python(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code, which may import what stands beside this file; the test fails where that does.

    With ``check=False`` it may fail.
    """
    command, folder = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def imported_by(code: str) -> set[str]:
    """Which of the heavy packages have been imported when the code has run."""
    printed = run_python(f"{code}\nimport sys; print(*sys.modules)").stdout
    return HEAVY & set(printed.splitlines()[-1].split())
