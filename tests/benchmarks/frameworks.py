"""What an explanation costs beside the framework's own forward pass, on the framework of Keras.

`bench.py` runs it once for each framework, as a process of its own: ``KERAS_BACKEND=... python
frameworks.py`` prints a row of the table per line, its cells between bars. Where the framework
finds a GPU, there is a row more.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerasight

warnings.simplefilter("ignore")

SIDE = 224
FRAMEWORK = keras.config.backend()


def forward_of(model: keras.Model) -> Callable[[Any], Any]:
    """The model alone, as fast as the framework runs it without approximations."""
    if FRAMEWORK == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda docs: model(docs, training=False), autograph=False)
    if FRAMEWORK == "jax":
        import jax

        weights = [one.value for one in model.trainable_variables]
        state = [one.value for one in model.non_trainable_variables]

        @jax.jit
        def run(weights: Any, state: Any, docs: Any) -> Any:
            return model.stateless_call(weights, state, docs, training=False)[0]

        return lambda docs: run(weights, state, docs).block_until_ready()
    import torch

    def run_in_inference_mode(docs: Any) -> Any:
        with torch.inference_mode():
            return model(docs, training=False)

    return run_in_inference_mode


def has_gpu() -> bool:
    if FRAMEWORK == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if FRAMEWORK == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import torch

    return torch.cuda.is_available()


def medians(
    explain: Callable[[], Any], forward: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """The median seconds of both, taken in turns so that both meet the same machine."""
    taken = []
    for number in range(rounds + 8):  # of which the first few trace and compile
        times = []
        for call in (explain, forward):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        if number >= 8:
            taken.append(times)
    return tuple(map(statistics.median, zip(*taken, strict=True)))


def later(name: str, must: float, rounds: int) -> str:
    model = getattr(keras.applications, name)(weights=None)
    docs = np.random.default_rng(0).random((1, SIDE, SIDE, 3), dtype=np.float32) * 2 - 1
    forward, tensor = forward_of(model), keras.ops.convert_to_tensor(docs)
    own, alone = medians(
        lambda: kerasight.explain_prediction(model, docs),
        lambda: keras.ops.convert_to_numpy(forward(tensor)),
        rounds,
    )
    return (
        f"{FRAMEWORK}: a later `explain_prediction`, {name} / the forward pass "
        f"({1e3 * own:.1f} / {1e3 * alone:.1f} ms) | at most {must} | {own / alone:.2f}"
    )


def batch(name: str, size: int, must: str, rounds: int) -> str:
    model = getattr(keras.applications, name)(weights=None)
    docs = np.random.default_rng(0).random((size, SIDE, SIDE, 3), dtype=np.float32) * 2 - 1
    forward, tensor = forward_of(model), keras.ops.convert_to_tensor(docs)
    own, alone = medians(
        lambda: list(kerasight.explain_predictions(model, docs, batch_size=size)),
        lambda: keras.ops.convert_to_numpy(forward(tensor)),
        rounds,
    )
    return (
        f"{FRAMEWORK}: `explain_predictions`, {name}, batch of {size}, an image / the forward pass "
        f"({1e3 * own / size:.2f} / {1e3 * alone / size:.2f} ms) | {must} | {own / alone:.2f}"
    )


def rows() -> Iterator[str]:
    if has_gpu():
        yield batch("ResNet50", 64, "at most 1.05", 30)
    yield later("MobileNetV2", 1.2, 60)
    yield later("ResNet50", 1.1, 40)
    yield batch("MobileNetV2", 32, "at most 1.1", 8)


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
