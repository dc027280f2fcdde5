"""Where the pictures of a training go: a writer for each place, each of a few lines."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kerasight.files import whole_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FolderWriter", "MlflowWriter", "TensorBoardWriter", "WandbWriter", "Writer"]


class Writer(Protocol):
    """Anything that can be called with pictures: a function, or one of the classes here."""

    def __call__(
        self, tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        """Write the pictures of one step.

        Args:
            tag: What they are called.
            pictures: An RGB picture for each doc, with class and score below.
            step: How many epochs or batches the model was trained for.
            captions: Class and score of each doc as text, such as ``"rocket (6): 51.5%"``.
        """


@dataclass(frozen=True)
class FolderWriter:
    """Writes PNG files into a folder, ``tag-step-doc.png``, such as ``explanations-000003-00.png``.

    By name, they sort by step. A file is there once it is whole. A file of the same name is
    replaced.

    Attributes:
        folder: The folder, which is made where there is none. A ``/`` in the tag is a folder in it.
    """

    folder: str | os.PathLike[str]

    def __call__(
        self, tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        """Write the pictures of one step; raises OSError if they cannot be written."""
        for number, picture in enumerate(pictures):
            path = Path(self.folder, f"{tag}-{step:06}-{number:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, "wb") as file:
                picture.save(file, format="PNG")


@dataclass(frozen=True)
class TensorBoardWriter:
    """Writes images for TensorBoard, beside what ``keras.callbacks.TensorBoard`` writes.

    It needs the package ``tensorboard``, and TensorFlow only as far as that does. TensorBoard shows
    the docs of a step side by side, with a slider from step to step.

    Attributes:
        log_dir: The folder that TensorBoard looks at.
        run: The run to show them as: a folder in ``log_dir``, as ``train`` and ``validation`` are.
    """

    log_dir: str | os.PathLike[str] = "logs"
    run: str = "explanations"

    @cached_property
    def _events(self) -> Any:
        with _installed("tensorboard"):
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        return EventFileWriter(os.path.join(self.log_dir, self.run))

    def __call__(
        self, tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        """Write the pictures of one step, in one summary; raises ImportError or OSError."""
        events = self._events
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.image.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        # A summary of images is a tensor of strings: the width and the height, then files.
        size = map(max, zip(*(picture.size for picture in pictures), strict=True))
        texts = [*(str(side).encode() for side in size), *map(_png_of, pictures)]
        value = Summary.Value(
            tag=tag,
            tensor=make_tensor_proto(texts),
            metadata=create_summary_metadata(display_name=None, description=None),
        )
        events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))
        events.flush()


@dataclass(frozen=True)
class WandbWriter:
    """Logs images to Weights & Biases.

    The step is logged beside them, as ``tag/step``, and is their axis: W&B's own step counts the
    calls of all that logs.

    Attributes:
        run: What ``wandb.init`` gave; None for the run that is active.
    """

    run: Any = None

    def __call__(
        self, tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        """Log the pictures of one step; raises ImportError, or ValueError if there is no run."""
        with _installed("wandb"):
            import wandb
        run = self.run or wandb.run
        if run is None:
            raise ValueError("there is no active run of Weights & Biases: call wandb.init() first")
        run.define_metric(tag, step_metric=f"{tag}/step")
        images = [
            wandb.Image(picture, caption=caption)
            for picture, caption in zip(pictures, captions, strict=True)
        ]
        run.log({tag: images, f"{tag}/step": step})


@dataclass(frozen=True)
class MlflowWriter:
    """Logs images to the active run of MLflow, or to a new one, as ``mlflow.log_image`` does.

    Each doc has a key of its own, ``tag/doc``, such as ``explanations/00``.
    """

    def __call__(
        self, tag: str, pictures: Sequence[Image.Image], step: int, captions: Sequence[str]
    ) -> None:
        """Log the pictures of one step; raises ImportError, or what MLflow raises."""
        with _installed("mlflow"):
            import mlflow
        for number, picture in enumerate(pictures):
            mlflow.log_image(picture, key=f"{tag}/{number:02}", step=step, synchronous=True)


def _png_of(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


@contextmanager
def _installed(package: str) -> Iterator[None]:
    """Say what to install if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this writer needs {package} ({error}): pip install {package}"
        ) from error
