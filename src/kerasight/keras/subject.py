"""One doc that is explained, and what else a method may ask of the model about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasight.base import DocError, RunError
from kerasight.cam.baselines import Baseline, baseline_of
from kerasight.cam.inputs import Inputs
from kerasight.cam.request import Request
from kerasight.keras import docs as doors
from kerasight.keras import passes, scoring
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import Terms, record_batch, scores_of
from kerasight.keras.running import as_floats
from kerasight.keras.sites import Site, site_of_docs
from kerasight.keras.targets import Target
from kerasight.progress import progress_bar

if TYPE_CHECKING:
    from jaxtyping import Float, Real, Shaped

__all__ = ["Subject", "noise_for", "parts", "scores_by"]


@dataclass(frozen=True)
class Subject:
    """One doc, as it was seen, and the model to ask more of.

    Values stand for what was seen at the site, or could be: ``(number, *spatial, channels)``.

    Attributes:
        anatomy: The model.
        request: How to explain.
        inputs: The doc.
        terms: What was seen of it, for each of its targets.
        target: The targets, settled.
    """

    anatomy: Anatomy
    request: Request
    inputs: Inputs
    terms: Sequence[Terms]
    target: Target

    @property
    def site(self) -> Site:
        """Where the model was looked at."""
        return self.terms[0].site

    @property
    def is_at_doc(self) -> bool:
        """Whether that is the doc itself, and no layer."""
        return self.site.layer is self.anatomy.model

    @property
    def kind(self) -> str | None:
        """What the doc is."""
        return doors.kind_of(self.anatomy, self.inputs)

    @property
    def values(self) -> Float[np.ndarray, "*spatial channels"]:
        """What was seen at the site."""
        return self.terms[0].activations

    @property
    def score(self) -> Float[np.ndarray, " targets"]:
        """The scores of the targets."""
        score: np.ndarray = scores_by(self.target, self.terms[0].scores[np.newaxis])[0]
        return score

    def noise(
        self, random: np.random.Generator, shape: tuple[int, ...]
    ) -> Float[np.ndarray, " ..."]:
        """Normal noise, as it was asked for, to add to values."""
        return noise_for(self.values, self.request, random, shape)

    def numbers(self, why: str) -> Float[np.ndarray, "1 ..."]:
        """The doc as numbers that may be changed a little; ``why`` they are wanted.

        Raises:
            RunError: If it is a text.
        """
        if self.kind == "text":
            raise RunError(f"{why}, and words are no numbers that could change a little")
        return as_floats(self.inputs.docs)

    def at_doc(self, why: str) -> Subject:
        """The doc as it is seen by itself, where it goes into the model; ``why`` it is wanted.

        Raises:
            RunError: If it is a text, or has no gradient to the score.
        """
        inputs = self.inputs.with_docs(self.numbers(why))
        site = site_of_docs(self.anatomy, inputs)
        seen = record_batch(self.anatomy, inputs, self.target, site, logits=self.request.logits)
        return replace(self, inputs=inputs, terms=seen.terms(0))

    def scores(self, inputs: Inputs) -> Float[np.ndarray, "docs targets"]:
        """The scores of the targets for other docs in the place of this one."""
        request = self.request
        found = scores_of(
            self.anatomy, inputs, logits=request.logits, batch_size=request.batch_size
        )
        return scores_by(self.target, found)

    def scorer(self, number: int) -> Callable[[Inputs], Float[np.ndarray, "docs targets"]]:
        """A function that gives `scores`, batch by batch, for so many docs in all."""
        if number < _MANY:
            return self.scores
        score = scoring.frozen_scores(self.anatomy, self.inputs, logits=self.request.logits)
        return lambda inputs: scores_by(self.target, score(inputs))

    def scores_at(
        self, values: Float[np.ndarray, "number *spatial channels"]
    ) -> Float[np.ndarray, "number targets"]:
        """The scores of the targets for other values at the site."""
        if self.is_at_doc:
            return self.scores(self.with_values(values))
        return scores_by(self.target, self._scores_from(self._folded(values)))

    def gradients_at(
        self, values: Float[np.ndarray, "number *spatial channels"]
    ) -> Float[np.ndarray, "targets number *spatial channels"]:
        """The gradients of the targets with respect to other values at the site.

        Raises:
            DocError: If there is NaN or infinity in them.
        """
        if self.is_at_doc:
            gradients = record_batch(
                self.anatomy,
                self.with_values(values),
                self.target,
                self.site,
                logits=self.request.logits,
            ).gradients
        else:
            assert self.site.layout is not None
            gradients = self._gradients_from(self._folded(values))
            gradients = self.site.layout.unfold(gradients, axis=1)
        if not np.isfinite(gradients).all():
            raise DocError(
                "there is NaN or infinity in the gradient at a changed doc; look at the model's "
                "weights and at the range of doc"
            )
        return gradients

    def with_values(self, values: Real[np.ndarray, "number *spatial channels"]) -> Inputs:
        """Other docs in the place of this one, where the site is the doc."""
        return self.inputs.with_docs(self.anatomy.docs_of(values, self.inputs.docs.shape))

    def _folded(
        self, values: Float[np.ndarray, "number *spatial channels"]
    ) -> Shaped[np.ndarray, "number ..."]:
        assert self.site.layout is not None
        return self.site.layout.fold(values, self.terms[0].before)

    @cached_property
    def _scores_from(self) -> Any:
        logits = self.request.logits
        return scoring.scores_from(self.anatomy, self.inputs, self.site, logits=logits)

    @cached_property
    def _gradients_from(self) -> Any:
        logits = self.request.logits
        return passes.gradients_from(
            self.anatomy, self.inputs, self.site, self.target, logits=logits
        )

    @property
    def samples(self) -> int:
        """On how many changed docs to run the model."""
        return self.request.samples or self.request.method.samples

    @property
    def baseline(self) -> Baseline:
        """What stands for nothing there, as it was asked for."""
        asked, method = self.request.baseline, self.request.method
        if asked is None and method.hides and self.inputs.docs.ndim <= 2:
            return "zero"  # numbers of different things, or of words, have no mean
        return method.baseline if asked is None else asked

    def baselines(self) -> Float[np.ndarray, "number *spatial channels"] | None:
        """The baselines that were passed as an array; None if none was.

        Raises:
            ValueError: If they have not the shape of a doc, or of several.
        """
        asked = self.baseline
        if not isinstance(asked, np.ndarray):
            return None
        given = self.inputs.docs if self.is_at_doc else self._folded(self.values[np.newaxis])
        shape = given.shape[1:]
        if asked.shape[-len(shape) :] != shape or asked.ndim > len(shape) + 1:
            raise ValueError(
                f"baseline must have the shape of {'a doc' if self.is_at_doc else 'a map'}, "
                f"{shape}, or of several, {(1, *shape)}, got {asked.shape}"
            )
        several = asked.reshape(-1, *shape).astype(self.values.dtype)
        if self.is_at_doc:
            return self.anatomy.places_of(several)
        assert self.site.layout is not None
        unfolded: np.ndarray = self.site.layout.unfold(several)
        return unfolded

    def one_baseline(self) -> Float[np.ndarray, "*spatial channels"]:
        """The baseline.

        Raises:
            ValueError: As in `baselines`; if several were passed.
        """
        given, asked = self.baselines(), self.baseline
        if given is None:
            assert not isinstance(asked, np.ndarray)
            return baseline_of(self.values, asked, self.request.seed)
        if len(given) > 1:
            raise ValueError(
                f"method {self.request.method.name!r} takes one baseline, got {len(given)}; "
                "expected-gradients takes several"
            )
        one: np.ndarray = given[0]
        return one

    def bar(self, total: int, unit: str) -> Any:
        """A progress bar."""
        request = self.request
        return progress_bar(
            progress=request.progress,
            total=total,
            desc=request.method.name,
            unit=unit,
            leave=False,
        )


# From this many docs on it takes less time to compile the weights into the model first.
_MANY = 1000

# As a share of the range of the values: the lower end of SmoothGrad's 10 to 20 %.
_NOISE = 0.1


def noise_for(
    values: Float[np.ndarray, " ..."],
    request: Request,
    random: np.random.Generator,
    shape: tuple[int, ...],
) -> Float[np.ndarray, " ..."]:
    """Normal noise of a shape, to add to values whose range says how much."""
    share = _NOISE if request.noise is None else request.noise
    drawn: np.ndarray = random.normal(0, share * float(np.ptp(values)), shape)
    return drawn.astype(values.dtype)


def scores_by(
    target: Target, scores: Float[np.ndarray, "docs classes"]
) -> Float[np.ndarray, "docs targets"]:
    """What a target is about, of the scores of all classes."""
    found: np.ndarray = keras.ops.convert_to_numpy(target.score(scores))
    return found


def parts(number: int, most: int) -> Iterator[slice]:
    """A range of ``number`` in parts of at most ``most``, as even as they can be.

    Parts of one size go through one compiled pass.
    """
    count = -(-number // most)
    ends = [number * part // count for part in range(count + 1)]
    for start, end in itertools.pairwise(ends):
        yield slice(start, end)
