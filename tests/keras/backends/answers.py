"""Explains models whose weights and docs come of a file, and writes all that comes out to another.

Run as a program, first to make the file, then once for each framework that Keras runs on:
``python answers.py make GIVEN``, ``KERAS_BACKEND=... python answers.py explain GIVEN FOUND``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np
from tiny_models import MODELS, ON_ANY_MODEL, doc_for, drawn_by_numpy, few

import kerasight
from kerasight.cam.methods import METHODS

# A whole model of keras.applications with weights that come of a seed.
APPLICATION = "MobileNetV3Small"
SIDE = 64

# The answer of the program that kerasight came from; the seeds have it in print.
PHOTO = os.environ.get("KERASIGHT_IMAGENET_DIR", "")


def make() -> dict[str, np.ndarray]:
    """Weights of each tiny model, and docs."""
    given: dict[str, np.ndarray] = {}
    for name in MODELS:
        model, random = MODELS[name](), np.random.default_rng(0)
        doc = doc_for(name)
        model(doc)
        for number, one in enumerate(model.get_weights()):
            given[f"{name}, weight {number}"] = random.normal(0, 0.5, one.shape)
        scales = np.linspace(0.2, 1, 7, dtype="float32")
        given[f"{name}, docs"] = np.concatenate([doc * scale for scale in scales])
    random = np.random.default_rng(1)
    for number, one in enumerate(application().get_weights()):
        # Variances of batch normalisation are around 1; what is multiplied keeps its size.
        scale = 1 / np.sqrt(max(np.prod(one.shape[:-1]), 1)) if one.ndim > 1 else 0.1
        near = 1.0 if one.ndim == 1 and np.all(one == 1) else 0.0
        given[f"{APPLICATION}, weight {number}"] = near + random.normal(0, 1, one.shape) * scale
    given[f"{APPLICATION}, docs"] = random.random((2, SIDE, SIDE, 3), "float32") * 255
    return given


def application() -> keras.Model:
    make_model = getattr(keras.applications, APPLICATION)
    return make_model(input_shape=(SIDE, SIDE, 3), weights=None, classes=10)


def weights(given: Any, name: str) -> Iterator[np.ndarray]:
    number = 0
    while f"{name}, weight {number}" in given:
        yield given[f"{name}, weight {number}"]
        number += 1


def explain(given: Any) -> dict[str, Any]:
    """By each model and method; several classes; streams, long enough to be compiled; logits."""
    found: dict[str, Any] = {}

    def keep(what: str, explained: kerasight.Explanation) -> None:
        for place, target in enumerate(explained.targets):
            found[f"{what}, heatmap {place}"] = target.heatmap
            found[f"{what}, score {place}"] = np.array([target.score])
            found[f"{what}, class and layer {place}"] = np.array(
                [str(target.target), explained.layer or ""]
            )

    for name in MODELS:
        model, docs = MODELS[name](), given[f"{name}, docs"]
        model(docs[:1])
        model.set_weights(list(weights(given, name)))
        for method in ON_ANY_MODEL:
            if not (method == "finer-cam" and name == "one sigmoid unit"):  # no class to compare
                asked: dict[str, Any] = {"method": method, "relu": not METHODS[method].is_signed}
                asked |= few(method)
                explained = kerasight.explain_prediction(model, docs[-1:], **asked)
                keep(f"{name}, {method}", explained)
        if name != "one sigmoid unit":
            explained = kerasight.explain_prediction(model, docs[-1:], top_targets=2, relu=False)
            keep(f"{name}, two classes", explained)
        stream = kerasight.explain_predictions(model, docs, batch_size=3, logits=True, relu=False)
        for number, explained in enumerate(stream):
            keep(f"{name}, doc {number} of many", explained)
    model = application()
    model.set_weights(list(weights(given, APPLICATION)))
    docs = given[f"{APPLICATION}, docs"]
    for number, explained in enumerate(kerasight.explain_predictions(model, docs, relu=False)):
        keep(f"{APPLICATION}, doc {number}", explained)
    if (Path(PHOTO) / "mobilenet_v2.weights.h5").exists():
        keep("the photograph", photograph())
    return found


def photograph() -> kerasight.Explanation:
    """The one of the Grad-CAM paper, as MobileNetV2 sees it."""
    model = keras.applications.MobileNetV2(weights=str(Path(PHOTO) / "mobilenet_v2.weights.h5"))
    image = keras.utils.load_img(Path(PHOTO) / "cat_dog.jpg", target_size=(224, 224))
    doc = keras.utils.img_to_array(image)[np.newaxis]
    doc = keras.applications.mobilenet_v2.preprocess_input(doc)
    return kerasight.explain_prediction(model, doc)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with drawn_by_numpy():  # as all weights are set
        if sys.argv[1] == "make":
            np.savez(sys.argv[2], **make())
        else:
            np.savez(sys.argv[3], **explain(np.load(sys.argv[2])))
