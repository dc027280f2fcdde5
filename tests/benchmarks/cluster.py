"""Photographs a second by one process, and by workers of a local Ray: `python cluster.py`.

MobileNetV2 explains photographs of 1600 x 1200, made of the one in the folder that
KERASIGHT_IMAGENET_DIR names. Each row is measured in a process of its own: how long it takes until
the first photograph is explained; and how many are explained in a second, from a quarter of them
on. It needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = (1600, 1200)
BATCH = 16


def photographs(folder: Path, number: int) -> None:
    """Photographs that differ in how they are turned and cut."""
    from PIL import Image

    with Image.open(Path(os.environ["KERASIGHT_IMAGENET_DIR"], "cat_dog.jpg")) as file:
        picture = file.convert("RGB")
    for one in range(number):
        turned = picture.rotate(one * 360 / number, Image.Resampling.BICUBIC)
        turned.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{one:04}.jpg", quality=90)


def save_model(path: Path) -> None:
    import keras

    weights = Path(os.environ["KERASIGHT_IMAGENET_DIR"], "mobilenet_v2.weights.h5")
    keras.applications.MobileNetV2(weights=str(weights)).save(path)


def measure(folder: Path, workers: int) -> None:
    """Print seconds to the first photograph, and photographs a second after the first quarter.

    Args:
        folder: Where photographs and model are.
        workers: How many workers; 0 for this process.
    """
    from kerasight.jobs.sources import find
    from kerasight.jobs.worker import BatchExplainer
    from kerasight.ray import Cluster

    explainer = BatchExplainer(folder / "model.keras", preprocess="mobilenet_v2", batch_size=BATCH)
    pictures = find(folder / "photos").each(lambda *_: True)
    start = time.perf_counter()
    cluster = Cluster(workers=workers) if workers else None
    rows = cluster.rows(explainer, pictures) if cluster else explainer.rows(pictures)
    times = [time.perf_counter() - start for _ in rows]
    quarter = len(times) // 4
    print(times[0], (len(times) - 1 - quarter) / (times[-1] - times[quarter]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "WORKERS"))
    given = parser.parse_args()
    if given.measure:
        measure(Path(given.measure[0]), int(given.measure[1]))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "photos").mkdir()
        photographs(folder / "photos", given.pictures)
        save_model(folder / "model.keras")
        print(f"| explained by | first after | photographs a second |\n|{'---|' * 3}")
        for workers in (0, 1, 2):
            told = subprocess.run(
                [sys.executable, __file__, "--measure", folder, str(workers)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout.split()
            first, rate = map(float, told[-2:])
            name = f"{workers} worker{'s'[: workers > 1]} of 1 CPU" if workers else "one process"
            print(f"| {name} | {first:.0f} s | {rate:.1f} |", flush=True)


if __name__ == "__main__":
    main()
