from __future__ import annotations

from typing import Any

import pytest
import tqdm
import tqdm.auto
from fresh_python import run_python

from kerasight.progress import progress_bar


@pytest.mark.parametrize(
    ("progress", "module", "settings"),
    [
        (True, tqdm.auto, {}),
        (None, tqdm, {"disable": None, "delay": 1}),
        (False, tqdm, {"disable": True, "delay": 1}),
    ],
)
def test_a_bar_is_shown_as_asked(
    monkeypatch: pytest.MonkeyPatch, progress: bool | None, module: Any, settings: dict[str, Any]
) -> None:
    made = []

    def bar(items: Any, **asked: Any) -> Any:
        made.append(asked)
        return items

    monkeypatch.setattr(module, "tqdm", bar)
    assert progress_bar([1, 2], progress=progress, total=2) == [1, 2]
    assert made == [{"total": 2, **settings}]


def test_the_widgets_of_notebooks_are_asked_for_only_if_a_bar_is_wanted() -> None:
    # Where there are none, a warning would stand in every notebook.
    code = (
        "import sys\n"
        "from kerasight.progress import progress_bar\n"
        "list(progress_bar([1], progress=None)), list(progress_bar([1], progress=False))\n"
        "assert 'tqdm' in sys.modules and 'tqdm.autonotebook' not in sys.modules"
    )
    run_python(code)
