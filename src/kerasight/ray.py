"""Explains pictures on a cluster, by Ray Data: as many workers as there is room for."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasight.checks import integer, plural
from kerasight.errors import SetupError, reason
from kerasight.jobs import manifest, parts, sources
from kerasight.jobs.parts import Row
from kerasight.jobs.sources import Entry
from kerasight.jobs.worker import BatchExplainer

if TYPE_CHECKING:
    import keras
    import pyarrow as pa
    import ray.data

__all__ = ["Cluster", "explain"]

_PICTURES = "pictures"  # the column of those that are sent as they are found
_TRIES = 3  # times that a batch may end the process of a worker


def explain(
    pictures: Any,
    model: keras.Model | str | os.PathLike[str] | None,
    *,
    column: str = "path",
    batch_size: int = 32,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> ray.data.Dataset:
    """Explain pictures on a cluster.

    Args:
        pictures: A ``ray.data.Dataset`` with one of the columns ``path``, ``bytes``, ``image`` or
            ``doc``, and with ``key`` if pictures have names, as
            `kerasight.jobs.worker.BatchExplainer` takes them. Or the path of a folder, a table or
            a tar, or a list of paths, as `kerasight.jobs.run` takes them: paths alone travel, and
            workers read the files, which must be there for all of them under the same paths.
        model: As in `kerasight.jobs.worker.BatchExplainer`. A model in memory is sent to each
            worker once.
        column: The column of a table that holds the paths.
        batch_size: How many pictures a worker takes at a time.
        workers: How many processes explain, each with the model; None for as many as the cluster
            has CPUs and GPUs for when this is called.
        num_cpus: How many CPUs each has, to which its framework's threads are limited.
        num_gpus: How many GPUs each has; less than 1 to share them.
        **options: As in `kerasight.jobs.worker.BatchExplainer`: ``preprocess``, ``targets``,
            ``method`` and others.

    Returns:
        A ``ray.data.Dataset`` with the columns of `kerasight.jobs.schema`. Nothing runs before it
        is iterated over or written. Its rows are in no order; those of a picture follow each
        other. A picture that cannot be explained is a row with ``error``.

    Raises:
        ImportError: If Ray is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an invalid value; if there are no pictures, or no model; if
            a model in memory cannot be sent to others.
    """
    cluster = Cluster(workers=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    explainer = BatchExplainer(model, batch_size=batch_size, **options)
    if isinstance(pictures, _ray().data.Dataset):
        return cluster.mapped(explainer, pictures)
    found = sources.find(pictures, column)
    if found.facts["kind"] == "dataset":
        raise TypeError(
            "pictures must be a ray.data.Dataset, the path of a folder, a table or a tar, or a "
            f"list of paths, got {type(pictures).__name__}; ray.data has functions that make "
            "datasets, such as ray.data.from_numpy"
        )
    return cluster.explained(explainer, found.each(lambda *_: True))


@dataclass(frozen=True)
class Cluster:
    """Where to explain, and with what.

    Attributes:
        address: The address of the cluster, as ``ray.init`` takes it; None for the one that
            ``RAY_ADDRESS`` names, or else for this machine.
        workers: As in `explain`.
        num_cpus: As in `explain`.
        num_gpus: As in `explain`.
    """

    address: str | None = None
    workers: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        """Check what was passed."""
        if self.workers is not None:
            integer("workers", self.workers, 1)
        for name in ("num_cpus", "num_gpus"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.num_cpus and not self.num_gpus:
            raise ValueError("num_cpus and num_gpus cannot both be 0")

    @property
    def threads(self) -> int:
        """How many threads a worker has to read pictures, and as many for its framework."""
        return max(1, int(self.num_cpus))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Have Ray running: as it is, if it does; else, until this is left."""
        ray = _ray()
        is_ours = not ray.is_initialized()
        if is_ours:
            try:
                ray.init(
                    self.address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="WARNING",
                )
            except (ConnectionError, ValueError) as error:
                raise SetupError(
                    f"there is no cluster at {self.address}: {reason(error)}"
                ) from None
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield
        finally:
            if is_ours:
                ray.shutdown()

    def explained(self, explainer: BatchExplainer, pictures: Iterable[Entry]) -> ray.data.Dataset:
        """The rows of pictures, as a dataset that is still to be run.

        Args:
            explainer: What explains them, in batches of its ``batch_size``.
            pictures: The pictures, each of which is sent to a worker: of a file by itself, where
                it is. All are taken now.
        """
        import pyarrow as pa

        blocks, each = [], iter(pictures)
        while batch := list(itertools.islice(each, explainer.request.batch_size)):
            blocks.append(pa.table({_PICTURES: [pickle.dumps(picture) for picture in batch]}))
        return self.mapped(explainer, _ray().data.from_arrow(blocks))

    def mapped(self, explainer: BatchExplainer, dataset: ray.data.Dataset) -> ray.data.Dataset:
        """The rows of a dataset's pictures, as a dataset that is still to be run.

        Args:
            explainer: What explains them, in batches of its ``batch_size``.
            dataset: The dataset, as in `explain`.
        """
        from kerasight.keras import backends

        ray = _ray()
        sent = ray.put(ray.cloudpickle.dumps(explainer))
        tries = ray.remote(num_cpus=0)(_Tries).remote()
        most = self.workers or self._room()
        # What is still to be read has no room beside workers that take all of it from the start.
        is_there = isinstance(dataset, ray.data.dataset.MaterializedDataset)
        return dataset.map_batches(
            _Worker,
            fn_constructor_args=(sent, self.threads, tries),
            batch_size=explainer.request.batch_size,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(min_size=most if is_there else 1, max_size=most),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus or None,
            runtime_env={"env_vars": backends.environment(self.threads)},
        )

    def _room(self) -> int:
        """How many workers there is room for."""
        there = _ray().cluster_resources()
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return max(1, min(int(there.get(kind, 0) / each) for kind, each in wanted.items() if each))

    def rows(self, explainer: BatchExplainer, pictures: Iterable[Entry]) -> Iterator[list[Row]]:
        """The rows of each picture, as they come, in no order.

        Args:
            explainer: As in `explained`.
            pictures: As in `explained`.

        Raises:
            SetupError: If the model cannot be sent to workers or loaded by them, or asked so,
                whatever the picture; if a batch ends one worker after the other.
        """
        each = iter(pictures)
        if (first := next(each, None)) is None:
            return
        with self.connected():
            dataset = self.explained(explainer, itertools.chain([first], each))
            dataset.context.enable_progress_bars = False
            dataset.context.raise_original_map_exception = True
            of_all = (
                row
                for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow")
                for batch in table.to_batches()
                for row in parts.rows_in(batch)
            )
            try:
                for _, rows in itertools.groupby(of_all, itemgetter("key")):
                    yield list(rows)
            except SetupError as error:  # by a worker, and as Ray tells it, of several lines
                told = str(getattr(error, "cause", error))
                raise SetupError(told.partition("\n")[0]) from None


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError('Ray is not installed: pip install "kerasight[ray]"') from None
    return ray


class _Worker:
    """Explains batches, in a process of its own."""

    def __init__(self, sent: Any, threads: int, tries: Any) -> None:
        self._explainer: BatchExplainer = pickle.loads(_ray().get(sent))
        self._explainer.threads = threads
        self._tries = tries

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """The rows of a batch."""
        ray = _ray()
        first = pickle.dumps(next(iter(batch.values()))[0])
        # Ray starts the process of an actor again, and tries with the same one again.
        mark = f"{ray.get_runtime_context().get_actor_id()} {manifest.hash_of([first])}"
        if ray.get(self._tries.begin.remote(mark)) >= _TRIES:
            size = len(next(iter(batch.values())))
            raise SetupError(
                f"a worker ended {_TRIES} times as it explained the same "
                f"{plural(size, 'picture')}; most often, memory runs out: pass a smaller "
                "batch_size, or fewer workers, or give each more memory"
            )
        if _PICTURES in batch:
            pictures = [pickle.loads(one) for one in batch[_PICTURES]]
            rows = [row for of_one in self._explainer.explain(pictures) for row in of_one]
        else:
            rows = self._explainer.batch_rows(batch)
        self._tries.end.remote(mark)
        return parts.table_of(rows)


class _Tries:
    """Counts how often a worker has begun a batch that it has not finished."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, batch: str) -> int:
        """How often a batch was begun before."""
        self._begun[batch] += 1
        return self._begun[batch] - 1

    def end(self, batch: str) -> None:
        """Forget a batch that is finished."""
        del self._begun[batch]
