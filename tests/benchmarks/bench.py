"""Time and memory of kerasight beside eli5, tf-keras-vis, the keras.io recipe and the bare model.

Run with ``tox -e bench``, on a machine that does nothing else. Everything runs in one process, one
after the other (what is compared, in turns), with random weights, float32, 224 x 224, on the CPU.
Prints one table as Markdown; a row is a ratio of medians unless it says otherwise.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import eli5
import keras
import numpy as np
import psutil
import tensorflow as tf
from families import FAMILIES
from PIL import Image
from timing import Call, medians, seconds

import kerasight
from kerasight.base import Explanation, TargetExplanation
from kerasight.cam.methods import CAMS, METHODS

warnings.simplefilter("ignore")

SIDE = 224


def make_docs(number: int) -> np.ndarray:
    return np.random.default_rng(0).random((number, SIDE, SIDE, 3), dtype=np.float32) * 2 - 1


def compiled_forward(model: keras.Model) -> Callable[[np.ndarray], tf.Tensor]:
    """The limit: nothing but the model, compiled."""
    return tf.function(
        lambda docs: model(docs, training=False), autograph=False, reduce_retracing=True
    )


def recipe(model: keras.Model, doc: np.ndarray, layer: str) -> np.ndarray:
    """Grad-CAM as tutorials write it: a model cut at a layer, and a tape around it."""
    cut = keras.Model(model.inputs, [model.get_layer(layer).output, model.outputs[0]])
    with tf.GradientTape() as tape:
        activations, scores = cut(doc)
        score = tf.reduce_max(scores, axis=1)
    weights = tf.reduce_mean(tape.gradient(score, activations), axis=(1, 2))
    heatmap = tf.nn.relu(tf.einsum("nhwc,nc->nhw", activations, weights))[0]
    return (heatmap / (tf.reduce_max(heatmap) + 1e-7)).numpy()


def of_tf_keras_vis(model: keras.Model, doc: np.ndarray) -> Call:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    explainer = Gradcam(model, clone=False)
    score = CategoricalScore([3])
    return lambda: explainer(score, doc, penultimate_layer=-1)


Row = tuple[str, str, str]


def later_calls(name: str, must: float) -> tuple[keras.Model, Row]:
    model, doc = getattr(keras.applications, name)(weights=None), make_docs(1)
    forward, tensor = compiled_forward(model), tf.constant(doc)
    times = medians(
        {
            "forward": lambda: forward(tensor),
            "kerasight": lambda: kerasight.explain_prediction(model, doc),
        },
        rounds=150,
    )
    return model, (
        f"a later `explain_prediction`, {name} / the compiled forward pass "
        f"({1e3 * times['kerasight']:.1f} / {1e3 * times['forward']:.1f} ms)",
        f"at most {must}",
        f"{times['kerasight'] / times['forward']:.2f}",
    )


def later() -> Iterator[Row]:
    _, row = later_calls("ResNet50", 1.05)
    yield row
    model, row = later_calls("MobileNetV2", 1.15)
    yield row
    doc = make_docs(1)
    times = medians(
        {
            "kerasight": lambda: kerasight.explain_prediction(model, doc),
            "eli5": lambda: eli5.explain_prediction(model, doc),
            "tf-keras-vis": of_tf_keras_vis(model, doc),
            "the keras.io recipe": lambda: recipe(model, doc, "out_relu"),
            "`model.predict`": lambda: model.predict(doc, verbose=0),
        },
        rounds=20,
    )
    own = times.pop("kerasight")
    for peer, seconds_of_peer in times.items():
        yield (
            f"{peer} / kerasight, later calls, MobileNetV2 "
            f"({1e3 * seconds_of_peer:.0f} / {1e3 * own:.1f} ms)",
            "at least 15" if peer == "eli5" else "",
            f"{seconds_of_peer / own:.1f}",
        )


def first_calls() -> Iterator[Row]:
    doc = make_docs(1)

    def twenty(explain: Callable[..., Any]) -> list[float]:
        model = keras.applications.MobileNetV2(weights=None)
        return [seconds(lambda: explain(model, doc)) for _ in range(20)]

    # TensorFlow's own first use is nobody's: one throw-away run of each.
    twenty(eli5.explain_prediction), twenty(kerasight.explain_prediction)
    runs = {"eli5": [], "kerasight": []}
    for _ in range(3):
        runs["eli5"].append(twenty(eli5.explain_prediction))
        runs["kerasight"].append(twenty(kerasight.explain_prediction))
    times = {name: np.median(np.array(each), axis=0) for name, each in runs.items()}
    first = {name: each[0] for name, each in times.items()}
    yield (
        "the first `explain_prediction` on a fresh MobileNetV2 / eli5's first "
        f"({1e3 * first['kerasight']:.0f} / {1e3 * first['eli5']:.0f} ms)",
        "at most 0.5",
        f"{first['kerasight'] / first['eli5']:.2f}",
    )
    sums = np.cumsum(times["kerasight"]) / np.cumsum(times["eli5"])
    yield (
        "the sum of the first n calls / eli5's, the worst n from 1 to 20 "
        f"(n = {sums.argmax() + 1}); at n = 20 it is {sums[-1]:.2f}",
        "at most 0.8",
        f"{sums.max():.2f}",
    )


_COLD = """
import time, warnings
warnings.simplefilter("ignore")
import keras, numpy as np
import {library}
explain = {library}.explain_prediction
model = keras.applications.MobileNetV2(weights=None)
doc = np.random.default_rng(0).random((1, 224, 224, 3), dtype=np.float32) * 2 - 1
start = time.perf_counter()
explain(model, doc)
print(time.perf_counter() - start)
"""


def cold_calls() -> Iterator[Row]:
    def cold(library: str) -> float:
        command = [sys.executable, "-c", _COLD.format(library=library)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    cold("kerasight"), cold("eli5")  # which leaves the compiled files of both
    rounds = [(cold("kerasight"), cold("eli5")) for _ in range(9)]
    own, other = np.median(rounds, axis=0)
    yield (
        "the first `explain_prediction` of a fresh process / eli5's, nine of each in turns "
        f"({1e3 * own:.0f} / {1e3 * other:.0f} ms)",
        "at most 0.5",
        f"{own / other:.2f}",
    )


def many() -> Iterator[Row]:
    model = keras.applications.MobileNetV2(weights=None)
    docs = make_docs(32)
    forward = compiled_forward(model)
    tensor = tf.constant(docs)
    times = medians(
        {
            "forward": lambda: forward(tensor),
            "kerasight": lambda: list(kerasight.explain_predictions(model, docs, batch_size=32)),
        },
        rounds=15,
    )
    yield (
        "`explain_predictions`, batch of 32, an image / compiled forward at the same batch "
        f"({1e3 * times['kerasight'] / 32:.2f} / {1e3 * times['forward'] / 32:.2f} ms)",
        "at most 1.08",
        f"{times['kerasight'] / times['forward']:.2f}",
    )
    doc = docs[:1]
    times = medians(
        {
            "one": lambda: kerasight.explain_prediction(model, doc),
            "ten": lambda: kerasight.explain_prediction(model, doc, top_targets=10),
        },
        rounds=60,
    )
    yield (
        "10 classes of one image / one class "
        f"({1e3 * times['ten']:.1f} / {1e3 * times['one']:.1f} ms)",
        "at most 1.15",
        f"{times['ten'] / times['one']:.2f}",
    )


def methods() -> Iterator[Row]:
    model, doc = keras.applications.MobileNetV2(weights=None), make_docs(1)
    one_pass = [name for name in CAMS if not METHODS[name].is_slow and name != "grad-cam"]
    times = medians(
        {
            name: lambda name=name: kerasight.explain_prediction(model, doc, method=name)
            for name in ("grad-cam", *one_pass)
        },
        rounds=60,
        warm=7,
    )
    for name in one_pass:
        yield (
            f'`method="{name}"` / grad-cam '
            f"({1e3 * times[name]:.1f} / {1e3 * times['grad-cam']:.1f} ms)",
            "at most 1.2",
            f"{times[name] / times['grad-cam']:.2f}",
        )
    times = medians(
        {
            "plain": lambda: kerasight.explain_prediction(model, doc),
            "logits": lambda: kerasight.explain_prediction(model, doc, logits=True),
        },
        rounds=60,
        warm=7,
    )
    yield (
        f"`logits=True` / without ({1e3 * times['logits']:.1f} / {1e3 * times['plain']:.1f} ms)",
        "",
        f"{times['logits'] / times['plain']:.2f}",
    )
    forward, tensor = compiled_forward(model), tf.constant(np.repeat(doc, 32, axis=0))
    for name in ("score-cam", "ablation-cam"):
        taken = {
            rank: seconds(lambda name=name: kerasight.explain_prediction(model, doc, method=name))
            for rank in ("first", "second")
        }
        bare = medians({"forward": lambda: forward(tensor)}, rounds=5)["forward"]
        yield (
            f'`method="{name}"`, MobileNetV2\'s 1,280 channels, a second image / 1,280 images '
            f"forward, compiled, in batches of 32 ({taken['second']:.1f} / {40 * bare:.1f} s)",
            "",
            f"{taken['second'] / (40 * bare):.2f}",
        )


def score_cam_memory() -> Iterator[Row]:
    """In a process of its own, so that nothing else counts; the whole process counts."""
    code = (
        "import resource, keras, numpy as np, kerasight\n"
        "model = keras.applications.MobileNetV2(weights=None)\n"
        "doc = np.random.default_rng(0).random((1, 224, 224, 3), dtype=np.float32)\n"
        "kerasight.explain_prediction(model, doc, method='score-cam', progress=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    yield (
        "score-cam on 1,280 channels at 224 x 224: peak memory of the whole process",
        "under 2048 MiB",
        f"{int(done.stdout.split()[-1])} MiB",
    )


def mebibytes() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def memory() -> Iterator[Row]:
    model = keras.applications.MobileNetV2(weights=None)
    docs = make_docs(8)
    for number in range(200):
        kerasight.explain_prediction(model, docs[number % 8 : number % 8 + 1])
    before = mebibytes()
    for number in range(2000):
        kerasight.explain_prediction(model, docs[number % 8 : number % 8 + 1])
    yield "memory growth over 2,000 explanations", "under 20 MiB", f"{mebibytes() - before:.1f} MiB"

    def use_and_drop() -> None:
        model = keras.applications.MobileNetV2(weights=None)
        for _ in range(3):
            kerasight.explain_prediction(model, docs[:1])
        del model
        keras.backend.clear_session()

    def only_make_and_call() -> None:
        model = keras.applications.MobileNetV2(weights=None)
        forward = compiled_forward(model)
        for _ in range(3):
            forward(docs[:1])
        del model, forward
        keras.backend.clear_session()

    growth = {}
    for name, job in (("bare", only_make_and_call), ("explained", use_and_drop)):
        for _ in range(5):
            job()
        before = mebibytes()
        for _ in range(50):
            job()
        growth[name] = mebibytes() - before
    weights = 50 * sum(weight.nbytes for weight in model.get_weights()) / 2**20
    yield (
        f"fifty MobileNetV2 made, explained and dropped (their weights: {weights:.0f} MiB): what "
        f"stays (of fifty compiled without kerasight, {growth['bare']:.0f} MiB)",
        "their memory comes back",
        f"{growth['explained']:.0f} MiB",
    )


def explanations(size: tuple[int, int]) -> tuple[Explanation, Any]:
    heatmap = np.random.default_rng(0).random((7, 7))
    picture = Image.effect_noise(size, 64).convert("RGB")
    return (
        Explanation("net", image=picture, targets=[TargetExplanation(0, heatmap=heatmap)]),
        eli5.base.Explanation(
            "net", image=picture, targets=[eli5.base.TargetExplanation(0, heatmap=heatmap)]
        ),
    )


def peak_mebibytes(job: Call) -> float:
    """How much memory a job adds at its peak, looked at every millisecond."""
    process, over = psutil.Process(), threading.Event()
    peaks: list[int] = []

    def watch() -> None:
        while not over.is_set():
            peaks.append(process.memory_info().rss)
            time.sleep(0.001)

    gc.collect()
    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    job()
    over.set()
    watcher.join()
    return (max(peaks) - before) / 2**20


def formatting() -> Iterator[Row]:
    ours, theirs = explanations((SIDE, SIDE))
    times = medians(
        {
            "kerasight": lambda: kerasight.format_as_image(ours),
            "eli5": lambda: eli5.format_as_image(theirs),
        },
        rounds=200,
    )
    yield (
        "`format_as_image` at 224 x 224 / eli5's "
        f"({1e3 * times['kerasight']:.2f} / {1e3 * times['eli5']:.2f} ms)",
        "at most 1.5",
        f"{times['kerasight'] / times['eli5']:.2f}",
    )
    ours, theirs = explanations((4000, 3000))
    times = medians(
        {
            "kerasight": lambda: kerasight.format_as_image(ours),
            "eli5": lambda: eli5.format_as_image(theirs),
        },
        rounds=7,
        warm=1,
    )
    yield (
        "`format_as_image` on a 4000 x 3000 photograph / eli5's "
        f"({1e3 * times['kerasight']:.0f} / {1e3 * times['eli5']:.0f} ms)",
        "at most 1",
        f"{times['kerasight'] / times['eli5']:.2f}",
    )
    own = peak_mebibytes(lambda: kerasight.format_as_image(ours))
    other = peak_mebibytes(lambda: eli5.format_as_image(theirs))
    yield (
        f"memory at the peak of that (eli5's: {other:.0f} MiB)",
        "under 252 MiB",
        f"{own:.0f} MiB",
    )


def importing() -> Iterator[Row]:
    def python(code: str) -> Call:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    times = medians({"bare": python("pass"), "kerasight": python("import kerasight")}, 15, 2)
    yield (
        "`import kerasight` (a Python process with it, less one without)",
        "under 0.2 s",
        f"{times['kerasight'] - times['bare']:.3f} s",
    )


# Else glibc gives large tensors back to the system, and their pages are made anew each time: a
# batch on PyTorch then takes twice as long, now the one call and now the other.
_KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}


def rows_of(script: str, framework: str, *arguments: str) -> Iterator[Row]:
    """The rows that a script beside this one prints, with Keras on a framework."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments],
        env={**os.environ, **_KEEPS_MEMORY, "KERAS_BACKEND": framework},
        check=True,
        capture_output=True,
        text=True,
    )
    for line in done.stdout.splitlines():
        yield tuple(cell.strip() for cell in line.split("|"))


def frameworks() -> Iterator[Row]:
    for name in filter(importlib.util.find_spec, ("tensorflow", "jax", "torch")):
        yield from rows_of("frameworks.py", name)


def families() -> Iterator[Row]:
    for name in filter(importlib.util.find_spec, ("tensorflow", "torch")):
        for method in FAMILIES:
            yield from rows_of("families.py", name, method)


def folder() -> Iterator[Row]:
    for options in ((), ("--format", "jpeg"), ("--no-overlays",), ("--no-overlays", "--draft")):
        yield from rows_of("folder.py", "tensorflow", *options)


PARTS = {
    "frameworks": frameworks,
    "later": later,
    "first": first_calls,
    "cold": cold_calls,
    "many": many,
    "folder": folder,
    "methods": methods,
    "families": families,
    "score-cam": score_cam_memory,
    "formatting": formatting,
    "importing": importing,
    "memory": memory,
}


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    gibibytes = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores of {model}, {gibibytes:.0f} GiB; Python "
        f"{platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"NumPy {np.__version__}, eli5 {eli5.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    chosen = parser.parse_args().parts or list(PARTS)
    print(f"Measured on {machine()}.\n")
    print("| measure | should be | is |\n|---|---|---|", flush=True)
    for part in chosen:
        for row in PARTS[part]():
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
