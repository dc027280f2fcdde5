"""Data that the tests share: seeds, and the real ImageNet weights where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import shapes  # noqa: F401, which checks arrays in kerasight, and comes before it
import tiny_models

import kerasight


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture
def model() -> keras.Model:
    """The tiny model of the kind that most people build."""
    return tiny_models.MODELS["functional"]()


@pytest.fixture
def _float64() -> Iterator[None]:
    """All layers made in the test compute in float64."""
    if keras.config.backend() == "jax":
        # By Keras's own rules of types: with jax_enable_x64 and floatx "float64" as well.
        pytest.skip("keras.ops on JAX compute functions and means in float32, whatever goes in")
    if keras.config.backend() == "torch":
        pytest.skip("Keras's means on PyTorch are of float32, whatever goes in")
    keras.mixed_precision.set_dtype_policy("float64")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def imagenet() -> Callable[[str], Path]:
    """Paths of the real ImageNet weights and photograph; skips where they are not at hand."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "imagenet"
    folder = Path(os.environ.get("KERASIGHT_IMAGENET_DIR", default))

    def path(name: str) -> Path:
        found = folder / name
        if not found.exists():
            pytest.skip(
                f"no real ImageNet data: {name} is not in the folder that "
                "KERASIGHT_IMAGENET_DIR names"
            )
        return found

    return path


@pytest.fixture(scope="session")
def cat_dog(imagenet: Callable[[str], Path]) -> np.ndarray:
    """The photograph of the Grad-CAM paper as MobileNetV2 takes it, ``(1, 224, 224, 3)``."""
    image = keras.utils.load_img(imagenet("cat_dog.jpg"), target_size=(224, 224))
    doc = keras.utils.img_to_array(image)[np.newaxis]
    preprocessed: np.ndarray = keras.applications.mobilenet_v2.preprocess_input(doc)
    return preprocessed


@pytest.fixture(scope="session")
def mobilenet_v2(imagenet: Callable[[str], Path]) -> keras.Model:
    """MobileNetV2 with its ImageNet weights."""
    weights = str(imagenet("mobilenet_v2.weights.h5"))
    with tiny_models.drawn_by_numpy():
        return keras.applications.MobileNetV2(weights=weights)


@pytest.fixture(scope="session")
def by_score_cam(mobilenet_v2: keras.Model, cat_dog: np.ndarray) -> kerasight.Explanation:
    """The dog and the cat by Score-CAM, which runs the network once for each of 1,280 channels."""
    if (framework := keras.config.backend()) != "tensorflow":
        pytest.skip(f"1,280 passes through MobileNetV2 take minutes on {framework} without a GPU")
    (expl,) = kerasight.explain_predictions(
        mobilenet_v2, cat_dog, targets=[[243, 282]], method="score-cam"
    )
    return expl
