"""Train the tests' vision transformer on the demonstration's pictures, and write its weights.

Run as ``python tests/demo/train_transformer.py``; with Keras on PyTorch, it takes about fifteen
minutes on two cores. The transformer learns from labels alone, as the classifier does, and from the
same pictures. With ``--rank`` it is not trained, but judges all methods on it, and prints a table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from demo.train import (
    HELD_OUT_PICTURES,
    draw_many,
    fit,
    pack_weights,
    training_pictures,
)
from demo.transformer import WEIGHTS, build_transformer, load_transformer

from kerasight.demo.classifier import preprocess, unpack_weights
from kerasight.demo.pictures import draw_pair, draw_picture
from kerasight.metrics.evaluation import evaluate
from kerasight.metrics.result import Evaluation

EPOCHS = 16


def train(seed: int) -> keras.Model:
    """Draw the training pictures and train a transformer on them."""
    images, targets = training_pictures(seed)
    keras.utils.set_random_seed(seed)
    model = build_transformer()
    # Half of the pictures mirrored each time: a transformer needs more of them than there are.
    varied = keras.Sequential([keras.layers.RandomFlip("horizontal"), model])
    fit(varied, images, targets, epochs=EPOCHS, rate=2e-3)
    return model


def rank() -> Evaluation:
    """Judge all methods on the pictures of ``kerasight evaluate --pictures 100``."""
    random = np.random.default_rng(0)
    draws = (draw_picture, draw_pair)
    pictures = [draws[place % 2](random, size=192) for place in range(100)]
    return evaluate(
        load_transformer(),
        np.concatenate([preprocess(picture.image) for picture in pictures]),
        targets=[picture.labels for picture in pictures],
        masks=[picture.masks for picture in pictures],
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help=f"default: {WEIGHTS.name}")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--rank", action="store_true", help="judge the methods")
    options = parser.parse_args(arguments)
    if options.rank:
        print(rank().to_markdown())
        return

    start = time.perf_counter()
    model = train(options.seed)
    weights = pack_weights(model)
    unpack_weights(model, weights)  # What is measured is what is written: half precision.
    held_out = draw_many(draw_picture, HELD_OUT_PICTURES, [options.seed, 4])
    top = model.predict(held_out.images, batch_size=200, verbose=0).argmax(axis=1)
    right = np.mean(top == held_out.labels[:, 0])
    print(f"right on {right:.2%} of {len(top)} held-out pictures of one object")
    with options.output.open("wb") as file:
        np.savez_compressed(file, **weights)
    minutes = (time.perf_counter() - start) / 60
    print(f"{options.output.stat().st_size / 1000:.0f} kB written after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
