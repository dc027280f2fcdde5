from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from kerasight.files import whole_file


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with whole_file(path) as out:
        out.write("nü\nw")
        out.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "nü\nw".encode()
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_file_of_bytes(tmp_path: Path) -> None:
    with whole_file(str(tmp_path / "picture.png"), "wb") as out:
        out.write(b"\r\n\x00")
    assert (tmp_path / "picture.png").read_bytes() == b"\r\n\x00"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("was_there", [True, False])
def test_what_is_interrupted_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], was_there: bool
) -> None:
    path = tmp_path / "page.html"
    if was_there:
        path.write_text("old")

    def fail() -> None:
        with whole_file(path) as out:
            out.write("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [item.read_text() for item in tmp_path.iterdir()] == ["old"] * was_there


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions, links and pipes")
def test_permissions_and_links_stay_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    path, link, pipe = (tmp_path / name for name in ("page.html", "link.html", "pipe"))
    path.write_text("old")
    path.chmod(0o604)
    link.symlink_to(path)
    with whole_file(link) as out:
        out.write("new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604

    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with whole_file(pipe) as out:
        out.write("through")
    reader.join(10)
    assert read == ["through"]


def test_a_name_may_be_as_long_as_the_system_has_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / ("é" * 127)) as out:
        out.write("x")
    assert len(os.listdir(tmp_path)) == 1


def test_a_folder_that_is_not_there_or_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "no" / "page.html"):
        pass
    with pytest.raises(IsADirectoryError), whole_file(tmp_path):
        pass
    assert os.listdir(tmp_path) == []
