"""Explains models whose weights and docs come of a seed, and writes all that comes out to a file.

Run as a program, once for each framework: ``KERAS_BACKEND=... python answers.py FILE``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np
from tiny_models import MODELS, doc_for

import kerasight
from kerasight.cam.methods import METHODS


def seeded(name: str) -> keras.Model:
    """A tiny model, with the same weights on each framework."""
    model, random = MODELS[name](), np.random.default_rng(0)
    model(doc_for(name))
    model.set_weights([random.normal(0, 0.5, one.shape) for one in model.get_weights()])
    return model


def answers() -> dict[str, Any]:
    """Of each model and method, and of a stream that is long enough to be compiled."""
    found: dict[str, Any] = {}

    def keep(what: str, explained: kerasight.Explanation) -> None:
        target = explained.targets[0]
        found[f"{what}, heatmap"] = target.heatmap
        found[f"{what}, score"] = np.array([target.score])
        found[f"{what}, class and layer"] = np.array([str(target.target), explained.layer])

    for name in MODELS:
        model, doc = seeded(name), doc_for(name)
        for method in METHODS:
            if not (method == "finer-cam" and name == "one sigmoid unit"):  # no class to compare
                relu = not METHODS[method].is_signed
                explained = kerasight.explain_prediction(model, doc, method=method, relu=relu)
                keep(f"{name}, {method}", explained)
        docs = np.concatenate([doc * scale for scale in np.linspace(0.2, 1, 7, dtype="float32")])
        stream = kerasight.explain_predictions(model, docs, batch_size=7, logits=True, relu=False)
        for number, explained in enumerate(stream):
            keep(f"{name}, doc {number} of many", explained)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **answers())
