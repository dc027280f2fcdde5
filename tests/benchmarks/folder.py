"""What `kerasight explain FOLDER` takes of many photographs, beside its three parts alone.

`bench.py` runs it as a process of its own: ``python folder.py [--few N] [--many N] [--size WxH]
[--application NAME] [OPTION ...]`` prints a row of the table per line, its cells between bars.
Further options are those of the command; ``{number}`` in them stands for the number of photographs:
``--job job{number}``. The overlays of 1,000 photographs take 3 GB meanwhile. With
KERASIGHT_IMAGENET_DIR set, MobileNetV2 has its ImageNet weights; else weights are random.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

warnings.simplefilter("ignore")

MODEL = "model.keras"
BATCH = 16
SAMPLE = 64  # pictures that each part is measured by


def photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """Structure of all sizes, as in photographs, and the grain of a sensor."""
    random = np.random.default_rng(seed)
    pixels = np.full((*size[::-1], 3), 128, np.float32)
    for octave in range(2, 9):
        side = 2**octave
        noise = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
        pixels += (
            np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32) / side - 128 / side
        )
    pixels += random.normal(0, 4, (*size[::-1], 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def prepare(folder: Path, number: int, size: tuple[int, int], application: str) -> None:
    """Photographs and a model, for processes to read."""
    import keras

    (folder / "photos").mkdir()
    for place in range(number):
        path = folder / "photos" / f"{place:05}.jpg"
        if place < SAMPLE:
            photograph(place, size).save(path, quality=90)
        else:
            path.write_bytes((folder / "photos" / f"{place % SAMPLE:05}.jpg").read_bytes())
    weights = None
    if application == "MobileNetV2" and "KERASIGHT_IMAGENET_DIR" in os.environ:
        weights = os.environ["KERASIGHT_IMAGENET_DIR"] + "/mobilenet_v2.weights.h5"
    getattr(keras.applications, application)(weights=weights).save(folder / MODEL)


def cost(work: Callable[[Any], Any], things: Sequence[Any], each: int = 1) -> tuple[float, float]:
    """Seconds that a picture takes, and seconds of all cores; there are ``each`` in a thing."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        start = time.perf_counter(), time.process_time()
        for _ in pool.map(work, things):
            pass
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
    return taken[0] / len(things) / each, taken[1] / len(things) / each


def parts(options: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What each part takes alone, in as many threads as the command uses."""
    import tensorflow as tf

    import kerasight
    from kerasight.classifiers import models
    from kerasight.classifiers.pictures import read_picture
    from kerasight.cli.files import write_overlay

    paths = sorted(Path("photos").iterdir())[:SAMPLE]
    of_model = models.ModelOptions(MODEL, None, None, (), False)
    classifier = models.load(of_model, None)
    model = classifier.model
    size = classifier.size
    least = (2 * size[0], 2 * size[1]) if size and "--draft" in options else None
    suffix = "." + (
        options[options.index("--format") + 1] if "--format" in options else "png"
    ).replace("jpeg", "jpg")

    def decode(path: Path) -> np.ndarray:
        return classifier.to_doc(read_picture(path, least))

    @tf.function(autograph=False)
    def forward(docs: Any) -> Any:
        return model(docs, training=False)

    docs = np.concatenate([decode(path) for path in paths])
    batches = [tf.constant(docs[at : at + BATCH]) for at in range(0, len(docs), BATCH)]
    for _ in range(3):
        forward(batches[0])
    expls = [
        kerasight.explain_prediction(model, docs[at : at + 1], image=read_picture(path))
        for at, path in enumerate(paths[:BATCH])
    ]
    Path("alone").mkdir(exist_ok=True)

    def draw(place: int) -> None:
        path = Path(f"alone/{place % len(expls)}{suffix}")
        write_overlay(kerasight.format_as_image(expls[place % len(expls)]), path)

    def run(batches: Sequence[Any]) -> None:  # in one thread, for all cores run each batch
        for batch in batches:
            forward(batch).numpy()

    found = {
        "decoding": cost(decode, paths * 2),
        "forward passes": cost(run, [batches * 4], 4 * len(docs)),
        "drawing and encoding": cost(draw, range(4 * len(expls))),
    }
    if "--no-overlays" in options:
        del found["drawing and encoding"]
    return found


def whole(number: int, options: Sequence[str]) -> tuple[float, float, int]:
    """Seconds, seconds of all processors and peak of memory in MiB, of a process of its own."""
    code = (
        "import sys, time; start = time.perf_counter(), time.process_time()\n"
        "from kerasight import cli\n"
        "cli.app(sys.argv[1:], standalone_mode=False)\n"
        "status = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(time.perf_counter() - start[0], time.process_time() - start[1], status)\n"
    )
    pictures = [str(path) for path in sorted(Path("photos").iterdir())[:number]]
    options = [one.format(number=number) for one in options]
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", *pictures, "-m", MODEL, *options],
        # As users have it, whatever a benchmark of times sets.
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, cpu, memory = done.stdout.split("\n")[-2].split()
    return float(seconds), float(cpu), int(memory) // 1024


def rows(few: int, many: int, size: tuple[int, int], options: Sequence[str]) -> Iterator[str]:
    alone = parts(options)
    first, second = whole(few, options), whole(many, options)
    # What is done once, such as imports, counts in both.
    taken, cpu = ((second[i] - first[i]) / (many - few) for i in (0, 1))
    cores = os.cpu_count() or 1
    words = " ".join(("kerasight explain", *options))
    slowest = max(alone, key=lambda name: alone[name][0])
    listed = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, (seconds, _) in alone.items())
    busy = sum(cpu for _, cpu in alone.values()) / cores
    yield (
        f"`{words}`, {size[0]} x {size[1]}, a photograph / {slowest} alone "
        f"({1e3 * taken:.1f} ms / {listed} ms) | at most 1.25 | {taken / alone[slowest][0]:.2f}"
    )
    both = sum(seconds for seconds, _ in alone.values())
    yield (
        f"the same / the sum of its parts alone ({1e3 * taken:.1f} / {1e3 * both:.1f} ms) | | "
        f"{taken / both:.2f}"
    )
    yield (
        f"the same / what the parts take of {cores} cores, were they always busy "
        f"({1e3 * taken:.1f} / {1e3 * busy:.1f} ms) | | {taken / busy:.2f}"
    )
    yield f"the same: how busy the cores are | | {cpu / taken / cores:.0%}"
    yield (
        f"the same: peak memory at {few:,} and {many:,} photographs | the same | "
        f"{first[2]:,} and {second[2]:,} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--application", default="MobileNetV2", help="of keras.applications")
    args, options = parser.parse_known_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.many, (width, height), args.application)
        os.chdir(folder)
        for row in rows(args.few, args.many, (width, height), options):
            print(row, flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
