"""What attributions, masks and attention cost beside the passes of the model that they need.

`bench.py` runs it once on TensorFlow and once on PyTorch, as a process of its own:
``KERAS_BACKEND=... python families.py [METHOD ...]`` prints a row of the table per line, its cells
between bars. A peer has a row where it has the method and is installed. ``--peak METHOD`` explains
one doc and prints the most memory that the process had, in MiB; each method has a process for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from frameworks import FRAMEWORK, SIDE, forward_of
from keras import layers
from timing import Call, medians

import kerasight
from kerasight.cam.methods import METHODS

warnings.simplefilter("ignore")

BATCH = 32
MASKS = 4000
STEPS, AT_ONCE = 50, 10
WINDOW, STRIDE = 32, 16
WINDOWS = ((SIDE - WINDOW) // STRIDE + 1) ** 2


def mobilenet_v2() -> keras.Model:
    return keras.applications.MobileNetV2(weights=None)


class ClassToken(layers.Layer):
    """Puts a learnt token before the others, and adds positions."""

    def build(self, shape: Any) -> None:
        _, tokens, width = shape
        self.token = self.add_weight(shape=(1, 1, width), initializer="normal", name="token")
        self.positions = self.add_weight(
            shape=(1, tokens + 1, width), initializer="normal", name="positions"
        )

    def call(self, x: Any) -> Any:
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1) + self.positions


def vit_b_16() -> keras.Model:
    """ViT-B/16: 12 blocks of 12 heads on 196 patches and a class token, 768 wide."""
    width, heads = 768, 12
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(width, 16, strides=16, name="patches")(inputs)
    x = ClassToken(name="tokens")(layers.Reshape((-1, width))(x))
    for number in range(12):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{number}")
        x = layers.Add()([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, layers.Dense(1000, name="scores")(x[:, 0]), name="vit_b_16")


def forward_and_backward_of(model: keras.Model) -> Callable[[Any], Any]:
    """The gradient of a score at the docs, and nothing else, as fast as the framework has it."""
    if FRAMEWORK == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(docs: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(docs)
                scores = model(docs, training=False)[:, 0]
            return tape.gradient(scores, docs)

        return run
    import torch

    def run_eagerly(docs: Any) -> Any:
        docs = docs.detach().requires_grad_()
        return torch.autograd.grad(model(docs, training=False)[:, 0].sum(), docs)[0]

    return run_eagerly


def of_xplique(name: str, **options: Any) -> Callable[[keras.Model, np.ndarray], Call]:
    def prepared(model: keras.Model, doc: np.ndarray) -> Call:
        from xplique import attributions

        explainer = getattr(attributions, name)(model, **options)
        target = np.eye(1000, dtype=np.float32)[:1]
        return lambda: explainer(doc, target)

    return prepared


def of_tf_explain(name: str, *args: Any, **options: Any) -> Callable[[Any, np.ndarray], Call]:
    def prepared(model: keras.Model, doc: np.ndarray) -> Call:
        from tf_explain import core

        module = {"IntegratedGradients": "integrated_gradients"}.get(name, "occlusion_sensitivity")
        explainer = getattr(getattr(core, module), name)(**options)
        return lambda: explainer.explain((doc, None), model, 0, *args)

    return prepared


def of_captum(name: str, **options: Any) -> Callable[[keras.Model, np.ndarray], Call]:
    def prepared(model: keras.Model, doc: np.ndarray) -> Call:
        import torch
        from captum import attr

        explainer = getattr(attr, name)(lambda docs: model(docs, training=False))
        return lambda: explainer.attribute(torch.from_numpy(doc), target=0, **options).numpy()

    return prepared


@dataclass(frozen=True)
class Family:
    """A method, and what it is measured by.

    Attributes:
        make: Makes the model.
        passes: How many docs go through it at the least.
        backward: Whether they go back as well.
        must: What the ratio should be at most.
        options: Of the method.
        rounds: How often it is measured.
        warm: How often it runs before.
        batch_size: How many docs go through the model at a time.
        peers: Of libraries, by framework and name, what prepares a call.
    """

    make: Callable[[], keras.Model]
    passes: int
    backward: bool
    must: float
    options: dict[str, Any] = field(default_factory=dict)
    rounds: int = 9
    warm: int = 8
    batch_size: int = BATCH
    peers: dict[tuple[str, str], Callable[[keras.Model, np.ndarray], Call]] = field(
        default_factory=dict
    )


FAMILIES = {
    "integrated-gradients": Family(
        mobilenet_v2,
        STEPS,
        True,
        1.15,
        # Gradients at the doc take half of the batch size.
        {"samples": STEPS, "batch_size": 2 * AT_ONCE},
        batch_size=AT_ONCE,
        peers={
            ("tensorflow", "xplique"): of_xplique(
                "IntegratedGradients", steps=STEPS, batch_size=AT_ONCE
            ),
            ("tensorflow", "tf_explain"): of_tf_explain("IntegratedGradients", STEPS),
            ("torch", "captum"): of_captum(
                "IntegratedGradients",
                n_steps=STEPS,
                method="riemann_middle",
                internal_batch_size=AT_ONCE,
            ),
        },
    ),
    "rise": Family(
        mobilenet_v2,
        MASKS,
        False,
        1.1,
        {"samples": MASKS},
        rounds=3,
        warm=1,
        peers={("tensorflow", "xplique"): of_xplique("Rise", nb_samples=MASKS, batch_size=BATCH)},
    ),
    "occlusion": Family(
        mobilenet_v2,
        WINDOWS,
        False,
        1.1,
        {"window": WINDOW, "stride": STRIDE},
        rounds=5,
        warm=2,
        peers={
            ("tensorflow", "xplique"): of_xplique(
                "Occlusion", patch_size=WINDOW, patch_stride=STRIDE, batch_size=BATCH
            ),
            # It knows no stride: a window is as far from the next as it is wide.
            ("tensorflow", "tf_explain"): of_tf_explain(
                "OcclusionSensitivity", WINDOW, batch_size=BATCH
            ),
            ("torch", "captum"): of_captum(
                "Occlusion",
                sliding_window_shapes=(WINDOW, WINDOW, 3),
                strides=(STRIDE, STRIDE, 3),
                perturbations_per_eval=BATCH,
            ),
        },
    ),
    **{
        name: Family(vit_b_16, 1, True, 1.3)
        for name in ("attention-rollout", "chefer", "beyond-intuition", "legrad")
    },
}


def make_docs(number: int) -> np.ndarray:
    return np.random.default_rng(0).random((number, SIDE, SIDE, 3), dtype=np.float32) * 2 - 1


def explained(method: str, model: keras.Model) -> Call:
    doc, options = make_docs(1), FAMILIES[method].options
    return lambda: kerasight.explain_prediction(
        model, doc, method=method, progress=False, **options
    )


def bare(family: Family, model: keras.Model) -> Call:
    """As many passes of the model alone, in batches of the same size."""
    run = (forward_and_backward_of if family.backward else forward_of)(model)
    full, rest = divmod(family.passes, family.batch_size)
    sizes = [family.batch_size] * full + [rest] * (rest > 0)
    docs = {size: keras.ops.convert_to_tensor(make_docs(size)) for size in set(sizes)}
    return lambda: [keras.ops.convert_to_numpy(run(docs[size])) for size in sizes]


def peak(method: str) -> int:
    """The most memory of this process after one explanation, in MiB."""
    explained(method, FAMILIES[method].make())()
    # Not by getrusage, whose peak a process inherits from the one that started it.
    with open("/proc/self/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def rows(method: str) -> Iterator[str]:
    family = FAMILIES[method]
    kind = "forward and backward" if family.backward else "forward"
    counted = f"{family.passes:,} passes" if family.passes > 1 else "one pass"
    title = f'{FRAMEWORK}: `method="{method}"`'
    if method not in METHODS:
        yield f"{title} / {counted} {kind} | at most {family.must} | not there"
        return
    model = family.make()
    calls = {"kerasight": explained(method, model), "alone": bare(family, model)}
    failed = {}
    for (framework, peer), prepare in family.peers.items():
        if framework == FRAMEWORK and importlib.util.find_spec(peer):
            try:
                call = prepare(model, make_docs(1))
                call()
            except Exception as error:  # whatever a library raises is its cell of the table
                words = " ".join(str(error).replace("|", " ").split())
                failed[peer] = f"{type(error).__name__}: {words[:80]}"
            else:
                calls[peer] = call
    times = medians(calls, family.rounds, family.warm)
    own, alone = times.pop("kerasight"), times.pop("alone")
    yield (
        f"{title}, {model.name} / {counted} {kind}, in batches of "
        f"{min(family.batch_size, family.passes)} ({1e3 * own:.0f} / {1e3 * alone:.0f} ms) | "
        f"at most {family.must} | {own / alone:.2f}"
    )
    for peer, theirs in times.items():
        yield (
            f"{title}: {peer} / kerasight ({1e3 * theirs:.0f} / {1e3 * own:.0f} ms) | | "
            f"{theirs / own:.1f}"
        )
    for peer, error in failed.items():
        yield f"{title}: {peer} | | {error}"
    done = subprocess.run(
        [sys.executable, __file__, "--peak", method],
        # As users have it, whatever a benchmark of times sets.
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        check=True,
        capture_output=True,
        text=True,
    )
    yield f"{title}: peak memory of a process | under 2048 MiB | {done.stdout.split()[-1]} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", choices=[[], *FAMILIES], default=[])
    parser.add_argument("--peak", choices=list(FAMILIES))
    args = parser.parse_args()
    if args.peak:
        print(peak(args.peak))
        return
    for method in args.methods or FAMILIES:
        for row in rows(method):
            print(row, flush=True)


if __name__ == "__main__":
    main()
