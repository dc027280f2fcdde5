"""Draw the pictures, train the classifier, measure it, and write its weights and picture.

Run as `python tests/demo/train.py`; it takes about ten minutes on two cores. The classifier learns
from labels alone: the objects' masks serve only to measure where it looked.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

import kerasight.demo
from kerasight.demo.classifier import (
    PICTURE_FILE,
    WEIGHTS_FILE,
    build_model,
    preprocess,
    unpack_weights,
)
from kerasight.demo.pictures import (
    CLASS_NAMES,
    Picture,
    draw,
    draw_pair,
    draw_picture,
)
from kerasight.metrics import energy_in_mask, pointing_game

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.float16]

TRAINING_PICTURES = 8_000
TRAINING_PAIRS = 4_000
TRAINING_EMPTY = 1_000
HELD_OUT_PICTURES = 2_000
HELD_OUT_PAIRS = 500

# Chosen by eye: a rocket above a house on a hill.
EMBEDDED_SEED = 217

# Drawing is most of the work of a picture, and the classifier sees 96 x 96 pixels of it.
DRAWN_SIZE = 128
EPOCHS = 10
BATCH = 64
LABEL_SMOOTHING = 0.1


class Drawn(NamedTuple):
    """Many pictures as arrays.

    Attributes:
        images: The classifier's inputs, (pictures, 96, 96, 3), in half precision to save memory.
        labels: Classes, (pictures, objects).
        masks: Where the objects are, (pictures, objects, DRAWN_SIZE, DRAWN_SIZE).
    """

    images: Images
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]


def draw_empty(rng: np.random.Generator | int, size: int) -> Picture:
    """Draw a picture without any object: a scene and clutter, no labels, no masks."""
    return draw(np.random.default_rng(rng), (), size)


def draw_many(draw: Callable[..., Picture], count: int, seed: list[int]) -> Drawn:
    """Draw `count` pictures, each from its own seed: `seed` followed by the picture's number."""
    tasks = [(draw, [*seed, number]) for number in range(count)]
    # Spawned rather than forked: a process that runs TensorFlow must not be forked.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        images, labels, masks = zip(*pool.map(_draw_one, tasks, chunksize=50), strict=True)
    return Drawn(np.stack(images), np.array(labels), np.array(masks))


def _draw_one(
    task: tuple[Callable[..., Picture], list[int]],
) -> tuple[Images, tuple[int, ...], tuple[npt.NDArray[np.bool_], ...]]:
    draw, seed = task
    picture = draw(np.random.default_rng(seed), size=DRAWN_SIZE)
    return preprocess(picture.image)[0].astype(np.float16), picture.labels, picture.masks


def smooth_targets(labels: npt.NDArray[np.int64]) -> Floats:
    """The probabilities to learn, (pictures, classes).

    A pair is half of each of its classes, a picture without objects is evenly of all. The
    smoothing keeps probabilities away from 1, where the gradient of a softmax vanishes and with
    it everything Grad-CAM has to go by.
    """
    classes = len(CLASS_NAMES)
    even = np.full((len(labels), classes), 1 / classes)
    if labels.shape[1] == 0:
        return even.astype(np.float32)
    shares = np.eye(classes)[labels].mean(axis=1)
    return np.asarray((1 - LABEL_SMOOTHING) * shares + LABEL_SMOOTHING * even, dtype=np.float32)


def training_pictures(seed: int, one_in: int = 1) -> tuple[Images, Floats]:
    """Draw the pictures to train on, or one in so many, and say what to learn of each."""
    kinds = [
        draw_many(draw_picture, TRAINING_PICTURES // one_in, [seed, 1]),
        draw_many(draw_pair, TRAINING_PAIRS // one_in, [seed, 2]),
        draw_many(draw_empty, TRAINING_EMPTY // one_in, [seed, 3]),
    ]
    images = np.concatenate([kind.images for kind in kinds])
    return images, np.concatenate([smooth_targets(kind.labels) for kind in kinds])


def fit(model: keras.Model, images: Images, targets: Floats, epochs: int, rate: float) -> None:
    """Train a model, at a learning rate that rises to ``rate`` and falls as a cosine does."""
    import keras

    steps = epochs * (len(images) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-4, steps, warmup_target=rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-2)
    model.compile(optimizer, "categorical_crossentropy")
    model.fit(images, targets, batch_size=BATCH, epochs=epochs, verbose=2)


def train(seed: int) -> keras.Model:
    """Draw the training pictures and train a classifier on them."""
    import keras

    images, targets = training_pictures(seed)
    keras.utils.set_random_seed(seed)
    model = build_model()
    fit(model, images, targets, epochs=EPOCHS, rate=4e-3)
    return model


def look(model: keras.Model, images: Images) -> tuple[Floats, Floats]:
    """The last feature map of every image, (images, rows, columns, channels), and what it reads."""
    import keras

    both = keras.Model(model.inputs, [model.get_layer("features").output, model.output])
    features, probabilities = both.predict(images, batch_size=200, verbose=0)
    return features, probabilities


def grad_cam(
    model: keras.Model, features: Floats, probabilities: Floats, targets: npt.NDArray[np.int64]
) -> Floats:
    """Grad-CAM heatmaps of one target class per image, (images, rows, columns), not normalised.

    After an average and a dense softmax layer the gradient is known in closed form: with
    probabilities p and the dense kernel W it is p_c (W_c - sum_k p_k W_k) / cells, the same in
    every cell. The tests compare it with what `kerasight.explain_prediction` says.
    """
    kernel = model.get_layer("probabilities").get_weights()[0].T
    rows = np.arange(len(targets))
    weights = kernel[targets] - probabilities @ kernel
    weights *= probabilities[rows, targets][:, None] / (features.shape[1] * features.shape[2])
    return np.asarray(np.maximum(np.einsum("nhwc,nc->nhw", features, weights), 0))


def report(model: keras.Model, seed: int) -> None:
    """Print how often the classifier is right, and how often its heatmaps are on the objects."""
    single = draw_many(draw_picture, HELD_OUT_PICTURES, [seed, 4])
    features, probabilities = look(model, single.images)
    label, top = single.labels[:, 0], probabilities.argmax(axis=1)
    right = label == top
    print(f"\n{len(label)} held-out pictures of one object")
    print(f"  accuracy                                 {right.mean():.2%}")
    for number, name in enumerate(CLASS_NAMES):
        print(f"    {name:12}                           {right[label == number].mean():.2%}")
    heatmaps = grad_cam(model, features, probabilities, top)
    peaks = heatmaps.max(axis=(1, 2))
    game = pointing_game([*heatmaps], [*single.masks[:, 0]])
    print(f"  hottest cell's centre on the object      {game.accuracy:.2%}")
    for name, values in [
        ("top probability", probabilities.max(axis=1)),
        ("peak / (peak + 1e-7)", peaks / (peaks + 1e-7)),
    ]:
        low, *middle, high = np.percentile(values, [0, 5, 50, 95, 100])
        shown = ", ".join(f"{value:.5f}" for value in middle)
        print(f"  {name + ', 5/50/95 %':36} {shown} (least {low:.5f}, most {high:.5f})")

    pair = draw_many(draw_pair, HELD_OUT_PAIRS, [seed, 5])
    features, probabilities = look(model, pair.images)
    top_two = np.sort(np.argsort(probabilities, axis=1)[:, -2:], axis=1)
    both_found = (top_two == np.sort(pair.labels, axis=1)).all(axis=1)
    own_hotter, own_hottest = [], []
    for own, other in [(0, 1), (1, 0)]:
        heatmaps = [*grad_cam(model, features, probabilities, pair.labels[:, own])]
        heat, others = (energy_in_mask(heatmaps, [*pair.masks[:, i]]) for i in (own, other))
        own_hotter.append(heat.shares > others.shares)
        own_hottest.append(pointing_game(heatmaps, [*pair.masks[:, own]]).accuracy)
    print(f"\n{len(pair.labels)} held-out pairs, each object as the target")
    print(f"  the pair's classes have the top two      {both_found.mean():.2%}")
    print(f"  more heat on its own object              {np.mean(own_hotter):.2%}")
    print(f"  hottest cell's centre on its own object  {np.mean(own_hottest):.2%}")


def pack_weights(model: keras.Model) -> dict[str, Any]:
    """The model's weights in half precision, each named for its layer and its place in it.

    Plain arrays rather than a Keras file, so that any version of Keras 3 can read them.
    """
    return {
        f"{layer.name}/{place}": weight.astype(np.float16)
        for layer in model.layers
        for place, weight in enumerate(layer.get_weights())
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(kerasight.demo.__file__).parent,
        help="folder to write the weights and the picture to (default: the package's own)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    model = train(options.seed)
    weights = pack_weights(model)
    unpack_weights(model, weights)  # What is measured is what is written: half precision.
    report(model, options.seed)

    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / WEIGHTS_FILE).open("wb") as file:
        np.savez_compressed(file, **weights)
    draw_embedded_picture().save(options.output / PICTURE_FILE, optimize=True)
    print(f"\nwritten to {options.output} after {(time.perf_counter() - start) / 60:.1f} minutes")


def draw_embedded_picture() -> Image.Image:
    """Draw the picture that `kerasight.demo.load_picture` loads, whatever the training's seed."""
    labels = [CLASS_NAMES.index("rocket"), CLASS_NAMES.index("house")]
    return draw_pair(EMBEDDED_SEED, labels=labels).image


if __name__ == "__main__":
    main()
