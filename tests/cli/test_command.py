"""The `kerasight` command itself: help, version, how it is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli.commands import run
from fresh_python import run_python

from kerasight import cli
from kerasight.classifiers import models


class TestCommand:
    def test_alone_shows_help(self) -> None:
        result = run()
        assert result.exit_code == 0
        assert "explain" in result.stdout
        assert "--version" in result.stdout

    def test_tells_its_version(self) -> None:
        assert run("--version").stdout.strip() == f"kerasight {version('kerasight')}"

    def test_help_says_what_preprocessing_files_get(self) -> None:
        result = run("explain", "--help")
        assert result.exit_code == 0
        assert "if its name is one of keras.applications; else none" in re.sub(
            r"[\s│]+", " ", result.stdout
        )

    @pytest.mark.parametrize("width", ["40", "80", "120"])
    @pytest.mark.parametrize("command", [[], ["explain"], ["evaluate"]])
    def test_help_shows_each_option_whole_and_no_type(
        self, command: list[str], width: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", width)
        shown = run(*command, "--help").stdout
        assert not re.search(r"<\w+[\[>]|BOOL", shown)
        assert "--help" in shown
        if command == ["explain"]:
            assert "[IMAGES]...\n" in re.sub(r" +\n", "\n", shown)
            assert {"--model", "--counterfactual", "--class-names"} <= set(shown.split())
        assert max(map(len, shown.splitlines())) <= int(width)

    def test_runs_as_installed_with_nothing_but_the_table(self, tmp_path: Path) -> None:
        environment = {**os.environ, "COLUMNS": "40"}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        folder = tmp_path / ("a long folder name, " * 5) / "overlays"
        result = subprocess.run(
            [Path(sys.executable).with_name("kerasight"), "explain", "-o", folder],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert result.stderr == ""
        assert result.returncode == 0
        header, rule, *rows, empty, count = result.stdout.splitlines()
        assert header.split() == ["Image", "Class", "Score", "Layer", "Overlay"]
        assert set(rule) == {"─"}
        assert len(rows) == len(list(folder.iterdir())) == 2
        for row, name in zip(rows, ("demo-rocket.png", "demo-house.png"), strict=True):
            assert row.startswith("demo picture ")
            assert row.rstrip().endswith(str(folder / name))
            assert (folder / name).is_file()
        assert empty == ""
        assert count == f"2 overlays written to {folder}"

    def test_runs_as_a_module_and_refuses_without_importing_keras(self) -> None:
        code = (
            "import runpy, sys\n"
            "sys.argv = ['kerasight', 'explain', '--top', '2', '--target', '1']\n"
            "try: runpy.run_module('kerasight', run_name='__main__')\n"
            "except SystemExit as end: print(end.code)\n"
            "print({'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules))"
        )
        result = run_python(code, check=False)
        assert result.stdout.split() == ["2", "set()"]
        assert result.stderr == "Error: --top and --target exclude each other: pass one of them\n"

    def test_a_warning_of_python_is_one_line(self, tmp_path: Path) -> None:
        code = (
            "import warnings\n"
            "from kerasight import cli\n"
            "cli.app = lambda **_: warnings.warn('first\\u202e line\\nsecond', stacklevel=1)\n"
            "cli.main()"
        )
        result = run_python(code, check=False)
        assert result.stderr == "Warning: first\\u202e line second\n"

    @pytest.mark.parametrize("level", [None, "0"])
    def test_quiets_tensorflow_unless_told_how_loud(
        self, level: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
        if level is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        monkeypatch.setattr(sys, "argv", ["kerasight", "--version"])
        with pytest.raises(SystemExit):
            cli.main()
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == (level or "3")

    def test_what_is_hushed_comes_out_with_an_exception(self, capfd: Any) -> None:
        with models._hushed():
            os.write(2, b"chatter")
        assert capfd.readouterr().err == ""
        with pytest.raises(ZeroDivisionError), models._hushed():
            raise ZeroDivisionError(os.write(2, b"the cause"))
        assert capfd.readouterr().err == "the cause"
