"""Evaluations whose numbers are chosen by hand."""

from __future__ import annotations

import math

from kerasight.metrics.comparison import RANDOM, Row
from kerasight.metrics.result import Evaluation


def make_rows(
    method: str, deletions: list[float], seconds: float = 0.5, **values: float
) -> list[Row]:
    return [
        Row(
            position=place // 2,
            doc=f"doc, {place // 2}",
            target=place % 2,
            name="cat" if place % 2 else None,
            score=0.25,
            method=method,
            layer="map",
            seconds=seconds + place // 2,
            values={
                "deletion": deletion,
                "insertion": 1.0,
                "insertion_minus_deletion": 1 - deletion,
                **values,
            },
        )
        for place, deletion in enumerate(deletions)
    ]


# Five docs of two classes and one of one, so that the mean over docs is not that over classes.
SMALL = [0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.9]
NEAR = [0.1, 0.3, 0.2, 0.1, 0.1, 0.2, 0.0, 0.3, 0.1, 0.2, 0.88]
RESULT = Evaluation(
    rows=(
        *make_rows(RANDOM, [0.9] * 11, math.nan, increase=50),
        *make_rows("grad-cam", SMALL, increase=50),
        *make_rows("hirescam", NEAR, increase=75),
        *make_rows("eigen-cam", [one + 0.5 for one in SMALL[:10]] + [math.nan], 3.0, increase=100),
    ),
    metrics=("insertion", "deletion", "increase"),
    logits=True,
)

TOLD = Evaluation(
    rows=(
        *make_rows("grad-cam", [0.1 + 0.001 * (i % 5) for i in range(24)], increase=50),
        *make_rows("hirescam", [0.1 + 0.001 * (i % 7) for i in range(24)], increase=75),
        *make_rows("eigen-cam", [0.3 + 0.002 * (i % 5) for i in range(24)], 30.0, increase=50),
        *make_rows(RANDOM, [0.5 + 0.01 * (i % 3) for i in range(24)], math.nan, increase=50),
    ),
    metrics=("insertion", "deletion", "increase"),
)
