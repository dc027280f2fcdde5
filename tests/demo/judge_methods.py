"""Judge every method on a model of the demonstration's pictures, and print tables of the docs.

Run as ``python tests/demo/judge_methods.py transformer``. It takes as long as the slowest methods
do: RISE alone sees each picture under 4,000 masks. Of a model without attention, the methods that
look at attention are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from demo.transformer import load_transformer, load_with_head

from kerasight.cam.methods import METHODS
from kerasight.demo import Picture, draw_pair, draw_picture, load_model, preprocess
from kerasight.metrics import adcc, grid_pointing_game, sensitivity
from kerasight.metrics.columns import METRICS
from kerasight.metrics.comparison import RANDOM
from kerasight.metrics.evaluation import evaluate
from kerasight.metrics.result import Evaluation

MODELS = {"classifier": load_model, "transformer": load_transformer, "head": load_with_head}
PICTURES = 20
MOSAICS = 8
STEPS = 25
FAMILIES = {
    "layer": "Class activation maps",
    "layers": "Class activation maps",
    "doc": "Gradients at the doc",
    "outside": "Masks",
    "blocks": "Attention",
}
FEW = 4


def methods_for(model: keras.Model) -> list[str]:
    """The methods that can explain a model."""
    attends = any(isinstance(one, keras.layers.MultiHeadAttention) for one in model.layers)
    return [name for name, method in METHODS.items() if attends or method.at != "blocks"]


def evaluated(
    model: keras.Model, methods: Sequence[str], number: int, **options: bool
) -> Evaluation:
    """Judge methods on the pictures of ``kerasight evaluate``, by every metric."""
    random = np.random.default_rng(0)
    draws = (draw_picture, draw_pair)
    pictures = [draws[place % 2](random, size=192) for place in range(number)]
    return evaluate(
        model,
        docs_of(pictures),
        targets=[picture.labels for picture in pictures],
        masks=[picture.masks for picture in pictures],
        methods=methods,
        metrics=[*METRICS],
        steps=STEPS,
        **options,
    )


def explained_again(model: keras.Model, method: str) -> list[str]:
    """What is measured on fewer pictures, as each is explained several times: cells of a table."""
    pictures = [draw_picture(seed, size=192) for seed in range(60)]
    docs, targets = docs_of(pictures), [picture.labels[0] for picture in pictures]
    how = {"method": method, "logits": True, "progress": False}
    game = grid_pointing_game(model, docs, targets, mosaics=MOSAICS, **how)
    moved = sensitivity(model, docs[:FEW], targets=targets[:FEW], samples=4, **how)
    left = adcc(model, docs[:FEW], targets=targets[:FEW], **how)
    return [
        f"{game.mean:.1%} ±{game.error:.1%}",
        f"{game.accuracy:.1%} ±{game.accuracy_error:.1%}",
        f"{moved.greatest:.3f} ±{moved.error:.3f}",
        f"{left.mean:.3f} ±{left.error:.3f}",
    ]


def docs_of(pictures: Sequence[Picture]) -> np.ndarray:
    """Pictures as the models take them."""
    return np.concatenate([preprocess(picture.image) for picture in pictures])


def by_family(lines: Sequence[str]) -> str:
    """Lines of a table, each after the name of the family of its method, where that is new."""
    families = {name: FAMILIES[method.at] for name, method in METHODS.items()}
    told, shown = "", []
    for line in lines:
        family = {**families, RANDOM: "Noise"}.get(line.split()[1], told)
        if family != told:
            shown.append(f"| *{family}* |")
        told = family
        shown.append(line)
    return "\n".join(shown)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"default: {PICTURES}")
    options = parser.parse_args(arguments)
    model = MODELS[options.model]()
    methods = methods_for(model)
    found = evaluated(model, methods, options.pictures)
    print(by_family(found.to_markdown().splitlines()), *found.summary("picture"), sep="\n")
    seconds = {method: found.mean(method, "seconds") for method in methods}
    lines = [
        "| Method | Grid, heat ↑ | Grid, hottest ↑ | Sensitivity ↓ | ADCC ↑ | Cost ↓ |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method, cost in seconds.items():
        cells = [*explained_again(model, method), f"{cost / seconds['grad-cam']:.1f}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    print(by_family(lines))


if __name__ == "__main__":
    main()
