"""What overlays are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerasight.base import Explanation, TargetExplanation
from kerasight.cli.overlays import path_in_job
from kerasight.errors import PictureError


def expl_of(*classes: tuple[int, str | None]) -> Explanation:
    targets = [TargetExplanation(index, name=name) for index, name in classes]
    return Explanation("net", targets=targets)


class TestInAJob:
    def name(self, key: str, place: int = 0, *classes: tuple[int, str | None]) -> str:
        expl = expl_of(*(classes or ((3, "tabby"),)))
        return path_in_job(Path("over"), key, expl, place, ".png").as_posix()

    def test_are_called_by_the_whole_key_and_the_class(self) -> None:
        assert self.name("sub/cat.jpg") == "over/sub/cat.jpg-tabby.png"
        assert self.name("cat", 0, (3, "red fox/dog")) == "over/cat-red_fox_dog.png"
        assert self.name("cat", 0, (3, None)) == "over/cat-3.png"

    def test_of_classes_of_one_name_differ(self) -> None:
        classes = ((3, "crane"), (7, "crane"), (5, "crane?"))
        names = [self.name("a.png", place, *classes) for place in range(3)]
        assert names == ["over/a.png-crane.png", "over/a.png-crane-7.png", "over/a.png-crane-5.png"]

    @pytest.mark.parametrize(
        "key",
        ["../cat.jpg", "/etc/cat.jpg", "a//b", "./a", "..", "a\nb", "a\\b", "C:/a", "x" * 300],
    )
    def test_lie_below_the_folder_and_differ_whatever_the_key_is(self, key: str) -> None:
        name = self.name(key)
        path = Path(name)
        assert path.resolve().is_relative_to(Path("over").resolve())
        assert all(ord(one) >= 32 and one not in "\\:" for one in name)
        assert len(path.name) < 255
        assert name == self.name(key)
        plain = {"../cat.jpg": "cat.jpg", "a\nb": "a_b", "x" * 300: "x" * 120}.get(key, "a/b")
        assert name != self.name(plain)

    def test_never_replace_a_file_of_the_user(self, tmp_path: Path) -> None:
        (tmp_path / "cat-tabby.png").write_text("a letter")
        with pytest.raises(PictureError, match="exists, and was not made by this command"):
            path_in_job(tmp_path, "cat", expl_of((3, "tabby")), 0, ".png")
