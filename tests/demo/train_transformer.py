"""Train the tests' models with attention on the demonstration's pictures, and write their weights.

Run as ``python tests/demo/train_transformer.py``; with Keras on PyTorch, it takes about fifteen
minutes on two cores. The transformer learns from labels alone, as the classifier does, and from the
same pictures. With ``--head`` the classifier stays as it is, and gets a head of attention, which
learns from its last map, of a quarter of the pictures, in a few minutes.
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
from demo.transformer import (
    HEAD_WEIGHTS,
    WEIGHTS,
    build_transformer,
    build_with_head,
    head_of,
)

from kerasight.demo.classifier import unpack_weights
from kerasight.demo.pictures import draw_picture

EPOCHS = 16
HEAD_EPOCHS = 12


def train(seed: int) -> keras.Model:
    """Draw the training pictures and train a transformer on them."""
    images, targets = training_pictures(seed)
    keras.utils.set_random_seed(seed)
    model = build_transformer()
    # Half of the pictures mirrored each time: a transformer needs more of them than there are.
    varied = keras.Sequential([keras.layers.RandomFlip("horizontal"), model])
    fit(varied, images, targets, epochs=EPOCHS, rate=2e-3)
    return model


def train_head(seed: int) -> keras.Model:
    """Draw a quarter of the pictures, and train a head on the classifier's last map of them."""
    images, targets = training_pictures(seed, one_in=4)
    keras.utils.set_random_seed(seed)
    model = build_with_head()
    seen = keras.Model(model.input, model.get_layer("features").output)
    # The classifier does not learn, so each picture goes through it once.
    features = seen.predict(images, batch_size=200, verbose=0).astype(np.float16)
    fit(head_of(model), features, targets, epochs=HEAD_EPOCHS, rate=2e-3)
    return model


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="default: where the tests have the weights")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--head", action="store_true", help="train the head of attention")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    if options.head:
        model, output = train_head(options.seed), options.output or HEAD_WEIGHTS
        learnt = head_of(model)
    else:
        model, output = train(options.seed), options.output or WEIGHTS
        learnt = model
    weights = pack_weights(learnt)
    unpack_weights(learnt, weights)  # What is measured is what is written: half precision.
    held_out = draw_many(draw_picture, HELD_OUT_PICTURES, [options.seed, 4])
    top = model.predict(held_out.images, batch_size=200, verbose=0).argmax(axis=1)
    right = np.mean(top == held_out.labels[:, 0])
    print(f"right on {right:.2%} of {len(top)} held-out pictures of one object")
    with output.open("wb") as file:
        np.savez_compressed(file, **weights)
    minutes = (time.perf_counter() - start) / 60
    print(f"{output.stat().st_size / 1000:.0f} kB written after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
