"""The one way from a model and docs to explanations.

An `Explainer` is a model and all that is asked of it whatever the doc. It looks at a batch of docs
in one pass for each layer (`Explainer.look`). Of what was seen, a formula makes evidence, and a
`Look` makes heatmaps and an ``Explanation`` of that, doc by doc.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from PIL import Image

from kerasight.base import DocError, Explanation, RunError, TargetExplanation
from kerasight.cam.heatmap import Heatmap, fused
from kerasight.cam.inputs import Inputs
from kerasight.cam.maps import normalised, resized, stretched
from kerasight.cam.methods import ALPHA, REFERENCES
from kerasight.cam.request import Request
from kerasight.keras import blank, docs, running, scoring, sites
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import Record, Terms, record_batch, scores_of
from kerasight.keras.targets import Contrast, Negative, Target
from kerasight.progress import progress_bar
from kerasight.targets import SCORES, Readout

if TYPE_CHECKING:
    from jaxtyping import Shaped

__all__ = [
    "Batches",
    "Explainer",
    "LayerKey",
    "LayerKeys",
    "Look",
    "TargetNames",
    "check_names",
    "name_of",
    "request_of",
]

TargetNames: TypeAlias = Sequence[str] | Mapping[int, str]
LayerKey: TypeAlias = int | str | keras.layers.Layer | sites.Site
LayerKeys: TypeAlias = LayerKey | list[LayerKey]

# As a share of the range of the values of the doc: the lower end of SmoothGrad's 10 to 20 %, since
# small classifiers see little but noise beyond it.
_NOISE = 0.1

# In a batch, sums are taken in another order. So a doc may differ by this share from what it gives
# by itself: by 1e-6 on a CPU, by more on a GPU.
_ROUNDING = 3e-3


@dataclass(frozen=True)
class Explainer:
    """A model, and what is asked of it whatever the doc.

    Attributes:
        model: The classifier.
        request: How to explain.
        layer: The layer whose output heatmaps are made of, or a list of them; None to have it
            chosen. `explain_prediction_keras` says what names it.
        names: Names of the classes: a list with one for each, or a dict from index to name.
        readout: What scores are read from the model's outputs.
    """

    model: keras.Model
    request: Request = field(default_factory=Request)
    layer: LayerKeys | None = None
    names: TargetNames | None = None
    readout: Readout = SCORES

    def __post_init__(self) -> None:
        check_names(self.names)
        if isinstance(self.layer, list) and not self.layer:
            raise ValueError("layer must hold at least one layer, got an empty list")
        if isinstance(self.layer, list) and any(one is None for one in self.layer):
            raise TypeError(
                "layer must hold layers, got None in the list; to have one chosen, pass it "
                "in place of the list"
            )

    @cached_property
    def anatomy(self) -> Anatomy:
        """What is known of the model."""
        return Anatomy(self.model, self.readout)

    def check_layer(self) -> None:
        """Refuse a layer that is not there, as far as that can be told before the model runs."""
        keys = self.layer if isinstance(self.layer, list) else [self.layer]
        for key in keys:
            if key is not None and (self.model.built or not isinstance(key, str)):
                sites.find_site(self.anatomy, key)

    def look(self, docs: Shaped[np.ndarray, "docs _ _ _"] | Inputs, target: Target) -> Look:
        """Run the model on docs, and see it at each layer that is asked for.

        Args:
            docs: Inputs, shape ``(docs, height, width, channels)``, or channels first, checked; or
                several for each doc.
            target: The classes to explain.

        Raises:
            RunError: If the model cannot be explained so, whatever the doc.
            ValueError: If there is no such layer, or the model cannot be run on the docs.
        """
        self.anatomy.refresh()
        inputs = docs if isinstance(docs, Inputs) else self.anatomy.inputs_of(docs)
        target = self._asked(target)
        keys = self.layer if isinstance(self.layer, list) else [self.layer]
        chosen = [None if key is None else self._site(inputs, key) for key in keys]
        return Look(self, inputs, [self._record(inputs, target, site) for site in chosen])

    def _asked(self, target: Target) -> Target:
        """What to differentiate, to explain a target as it is asked."""
        request = self.request
        if request.method.compares:
            alpha = np.float32(ALPHA if request.alpha is None else request.alpha)
            if isinstance(request.references, tuple):
                references = np.array([[request.references]])
                target = Contrast(target, np.asarray(alpha), references=references)
            else:
                target = Contrast(target, np.asarray(alpha), request.references or REFERENCES)
        return Negative(target) if request.counterfactual else target

    def _site(self, inputs: Inputs, key: LayerKey) -> sites.Site:
        """Find a site, also at a layer that is made when the model is first called."""
        try:
            return sites.find_site(self.anatomy, key)
        except ValueError:
            if self.model.built:
                raise
        running.build(self.anatomy, inputs)
        return sites.find_site(self.anatomy, key)

    def _record(self, inputs: Inputs, target: Target, site: sites.Site | None) -> Record:
        return record_batch(
            self.anatomy,
            inputs,
            target,
            site,
            logits=self.request.logits,
            # Where the site is chosen, that it has a gradient is what tells it from others.
            needs_gradients=site is None or self.request.method.needs == "gradients",
            grid=self.request.grid,
        )


@dataclass
class Batches:
    """Looks at docs in batches, as far as each then gives what it gives by itself.

    Attributes:
        explainer: What is asked of every doc.
    """

    explainer: Explainer
    _mixes_docs: bool | None = field(default=None, init=False)

    def look(self, docs: Shaped[np.ndarray, "docs _ _ _"] | Inputs, target: Target) -> Look | None:
        """`Explainer.look`; None if the docs are to be looked at one by one.

        That is where they depend on each other, or something is wrong with one of them or all.

        Raises:
            ValueError: As in `Explainer.look`, of one doc.
        """
        if len(docs) == 1:
            return self.explainer.look(docs, target)
        if self._mixes_docs or self.explainer.readout.is_local:
            return None
        try:
            look = self.explainer.look(docs, target)
        except (TypeError, ValueError):
            return None
        if self._mixes_docs is None:
            self._mixes_docs = look.mixes_docs()
        return None if self._mixes_docs else look


@dataclass(frozen=True)
class Look:
    """What was seen of a batch of docs.

    Attributes:
        explainer: What is asked.
        inputs: The docs.
        records: A pass over them for each layer.
    """

    explainer: Explainer
    inputs: Inputs
    records: Sequence[Record]

    def heatmaps(self, doc: int = 0) -> list[Heatmap]:
        """The heatmaps of a doc, one for each of its classes.

        Raises:
            DocError: If there is NaN or infinity in what was seen of this doc, or the like.
        """
        relu = self.explainer.request.relu
        of_layers = [self._at(record, doc) for record in self.records]
        return [fused(of_class, relu) for of_class in zip(*of_layers, strict=True)]

    def explanation(self, doc: int, image: Image.Image | None) -> Explanation:
        """The explanation of a doc.

        Args:
            doc: Its place in the batch.
            image: The picture that the heatmaps belong over; None if the doc is no picture.

        Raises:
            DocError: As in `heatmaps`; if there is a picture, and the doc is none.

        Warns:
            HeatmapWarning: If a heatmap is blank or nearly so.
        """
        explainer, request = self.explainer, self.explainer.request
        kind = docs.kind_of(explainer.anatomy, self.inputs)
        if image is not None and kind != "picture":
            raise DocError(f"image is a picture to lay heatmaps over, and the doc is a {kind}")
        heatmaps = self.heatmaps(doc)
        targets = []
        for heatmap in heatmaps:
            readout = explainer.readout
            fields = {
                "target": heatmap.target,
                "score": heatmap.score,
                "heatmap": heatmap.values,
                "signed": not request.relu,
                **self._told(heatmap.target, doc),
            }
            if readout.has_classes:
                fields["name"] = name_of(heatmap.target, explainer.names, len(heatmap.scores))
                fields["is_probability"] = not request.logits and bool(
                    (heatmap.scores >= 0).all() and (heatmap.scores <= 1).all()
                )
            target = TargetExplanation(**fields)
            targets.append(target)
            blank.warn_of(heatmap, target.label, explainer, self.inputs[doc : doc + 1])
        return Explanation(
            explainer.model.name,
            description=_description(heatmaps[0], explainer, kind)
            + _comparisons(heatmaps, explainer),
            error="",
            method=request.title,
            is_regression=explainer.readout.is_number,
            targets=targets,
            image=image,
            layer=heatmaps[0].path,
            kind=kind or "picture",
            doc=None if kind in ("picture", "text") else self._places(doc),
        )

    def _told(self, index: int, doc: int) -> dict[str, Any]:
        """What the readout tells of one of its scores."""
        try:
            return self.explainer.readout.told(index, [fact[doc] for fact in self.records[0].facts])
        except ValueError as error:
            raise DocError(str(error)) from error

    def _places(self, doc: int) -> np.ndarray:
        """A doc that is no picture, channels last: ``(*spatial, channels)``."""
        values = self.inputs.docs[doc : doc + 1]
        if values.ndim == 2:
            values = values[:, :, np.newaxis]
        else:
            values = self.explainer.anatomy.layout_of_docs(values.shape).unfold(values)
        places: np.ndarray = values[0]
        return places

    def mixes_docs(self) -> bool | None:
        """Whether a doc gives something else in a batch than by itself.

        As where batch normalisation runs in training mode. It is found out with the first doc that
        can be explained, and remembered of a model that is explained often; None if no doc can be.
        """
        record = self.records[-1]
        for doc in range(len(self.inputs)):
            try:
                terms = record.terms(doc)[0]
            except ValueError:
                continue
            site, logits = record.site, self.explainer.request.logits
            return bool(
                self.explainer.anatomy.traces.once(
                    ("mixes docs", weakref.ref(site.layer), logits, self.explainer.readout.key()),
                    lambda doc=doc, terms=terms: self._differs(doc, terms),  # type: ignore[misc]
                )
            )
        return None

    def _differs(self, doc: int, terms: Terms) -> bool:
        """Whether a doc by itself gives other terms than these."""
        try:
            alone = self._alone(self.records[-1], doc).terms(0)[0]
        except ValueError:
            return True
        rounding = _ROUNDING * (10 if terms.layer.compute_dtype.endswith("float16") else 1)
        return any(
            np.linalg.norm(one - other) > rounding * np.linalg.norm(other)
            for one, other in (
                (terms.scores, alone.scores),
                (terms.activations, alone.activations),
            )
        )

    def _alone(self, record: Record, doc: int) -> Record:
        return record_batch(
            self.explainer.anatomy,
            self.inputs[doc : doc + 1],
            record.target.of_docs(slice(doc, doc + 1)),
            record.site,
            logits=self.explainer.request.logits,
            needs_gradients=False,
            grid=self.explainer.request.grid,
        )

    def _at(self, record: Record, doc: int) -> list[Heatmap]:
        """The heatmaps of a doc at one layer."""
        request = self.explainer.request
        terms = record.terms(doc)
        one = slice(doc, doc + 1)
        evidence_of = self._smooth_evidence if request.smooth else self._evidence
        evidence = evidence_of(self.inputs[one], terms, record.target.of_docs(one))
        return [
            Heatmap(
                values=normalised(one, request.relu),
                evidence=one,
                target=term.target,
                scores=term.scores,
                rivals=term.rivals,
                site=term.site,
                path=term.path,
                is_of_zeros=not term.activations.any(),
            )
            for one, term in zip(evidence, terms, strict=True)
        ]

    def _evidence(self, inputs: Inputs, terms: Sequence[Terms], target: Target) -> list[np.ndarray]:
        """The evidence for each class of one doc, each of shape ``(*spatial)``."""
        method = self.explainer.request.method
        if method.needs == "nothing":
            return [method.formula(one.activations) for one in terms]
        if method.needs == "gradients":
            return [method.formula(one.activations, one.gradients) for one in terms]
        if method.needs == "scores":
            through = self._through_channels(inputs, terms[0], target)
            are_probabilities = self._are_probabilities(inputs, terms[0])
            return [
                method.formula(one.activations, through[:, rank], are_probabilities)
                for rank, one in enumerate(terms)
            ]
        drops = self._drops(inputs, terms[0], target)
        return [method.formula(one.activations, drops[:, rank]) for rank, one in enumerate(terms)]

    def _smooth_evidence(
        self, inputs: Inputs, terms: Sequence[Terms], target: Target
    ) -> list[np.ndarray]:
        """The mean evidence over noisy copies of a doc."""
        request = self.explainer.request
        random = np.random.default_rng(request.seed)
        doc = self._numbers(inputs, "smooth adds noise to the doc")
        deviation = _NOISE * float(np.ptp(doc))
        sums = [np.zeros(one.activations.shape[:-1]) for one in terms]
        for size in _sizes(request.smooth, request.batch_size):
            noise = random.normal(0, deviation, (size, *doc.shape[1:])).astype(doc.dtype)
            noisy = inputs.with_docs(doc + noise)
            record = self.explainer._record(noisy, target, terms[0].site)
            for copy in range(size):
                each = self._evidence(noisy[copy : copy + 1], record.terms(copy), target)
                for total, evidence in zip(sums, each, strict=True):
                    total += evidence
        return [total / request.smooth for total in sums]

    def _numbers(self, inputs: Inputs, why: str) -> np.ndarray:
        """A doc as numbers that may be changed a little; ``why`` they are wanted."""
        if docs.kind_of(self.explainer.anatomy, inputs) == "text":
            raise RunError(f"{why}, and words are no numbers that could change a little")
        return _floating(inputs.docs)

    def _through_channels(self, inputs: Inputs, terms: Terms, target: Target) -> np.ndarray:
        """The scores of a doc seen through each channel of the layer, ``(channels, targets)``."""
        request, anatomy = self.explainer.request, self.explainer.anatomy
        doc = self._numbers(inputs, request.method.title + " masks the doc")
        size = anatomy.size_of_docs(inputs)

        def scores(channels: slice) -> np.ndarray:
            maps = np.moveaxis(terms.activations[..., channels], -1, 0)
            masks = np.asarray([stretched(resized(one, size)) for one in maps], doc.dtype)
            if doc.ndim > 2:  # else there is no axis of channels
                masks = anatomy.layout_of_docs(doc.shape).fold(masks[..., np.newaxis])
            seen = doc * masks
            masked = inputs.with_docs(seen)
            return scores_of(anatomy, masked, logits=request.logits, batch_size=request.batch_size)

        return self._by_channel(scores, terms, target)

    def _are_probabilities(self, inputs: Inputs, terms: Terms) -> bool:
        """Whether the scores that are explained come out of a softmax or sigmoid.

        That is for the model to say, and the same for all docs. Only where it cannot be seen what
        the scores come out of, those of this doc are judged by their range.
        """
        if self.explainer.request.logits or terms.scores.min() < 0 or terms.scores.max() > 1:
            return False
        try:
            logits = scores_of(self.explainer.anatomy, inputs, logits=True)
        except RunError:  # they are not to be found
            return True
        return not np.allclose(logits, terms.scores, rtol=1e-2, atol=1e-4)

    def _drops(self, inputs: Inputs, terms: Terms, target: Target) -> np.ndarray:
        """How far the scores fall without a channel of the layer, ``(channels, targets)``."""
        logits = self.explainer.request.logits
        scores = scoring.scores_from(self.explainer.anatomy, inputs, terms.site, logits=logits)
        layout = terms.site.layout
        assert layout is not None

        def ablated(channels: slice) -> np.ndarray:
            places = np.arange(channels.start, channels.stop)
            outputs = np.repeat(terms.activations[np.newaxis], len(places), axis=0)
            np.moveaxis(outputs, -1, 1)[np.arange(len(places)), places] = 0
            return scores(layout.fold(outputs, terms.before))

        before = _score(target, terms.scores[np.newaxis])
        drops: np.ndarray = before - self._by_channel(ablated, terms, target)
        return drops

    def _by_channel(
        self, scores: Callable[[slice], np.ndarray], terms: Terms, target: Target
    ) -> np.ndarray:
        """Scores of the targets for each channel of a layer, a batch of them at a time.

        Args:
            scores: Given some of the channels, the model's scores for each.
            terms: The terms of the layer.
            target: The targets, of one doc.
        """
        request = self.explainer.request
        channels = terms.activations.shape[-1]
        found = []
        bar = progress_bar(
            progress=request.progress,
            total=channels,
            desc=request.method.name,
            unit="channel",
            leave=False,
        )
        with closing(bar):
            start = 0
            for size in _sizes(channels, request.batch_size):
                found.append(_score(target, scores(slice(start, start + size))))
                start += size
                bar.update(size)
        return np.concatenate(found)


def _score(target: Target, scores: np.ndarray) -> np.ndarray:
    score: np.ndarray = keras.ops.convert_to_numpy(target.score(scores))
    return score


def _description(heatmap: Heatmap, explainer: Explainer, kind: str | None) -> str:
    """What the explanation shows."""
    request = explainer.request
    verbs = ["speaks for", "speaks against"]
    if not explainer.readout.has_classes:
        verbs = ["raises", "lowers"]
    if request.counterfactual:
        verbs.reverse()
    what = "class" if explainer.readout.has_classes else "score"
    speaks = f"{verbs[0]} the {what}"
    if not request.relu:
        speaks += f", and below zero what {verbs[1]} it"
    if not request.method.is_of_class:
        speaks = "the layer responds to most, whatever the class"
    where = "image" if kind == "picture" else kind
    text = f"{request.method.title}: where in the {where} lies what {speaks}.\n"
    if kind == "picture":
        text += "`image` is the picture, and the `heatmap` of a target belongs over it.\n"
    elif kind != "text":
        text += f"`doc` is the {kind}, and the `heatmap` of a target belongs over it.\n"
    is_unit = len(heatmap.scores) == 1 and explainer.readout is SCORES
    if is_unit and heatmap.score < (0 if request.logits else 0.5):
        text += (
            "If the model's one unit is a sigmoid, it predicts the other class: "
            "counterfactual=True shows what speaks for that one.\n"
        )
    return text


def _comparisons(heatmaps: Sequence[Heatmap], explainer: Explainer) -> str:
    """A line for each class that was compared with others."""
    lines = []
    for one in heatmaps:
        labels = [
            TargetExplanation(index, name=name_of(index, explainer.names, len(one.scores))).label
            for index in (one.target, *one.rivals[:_NAMED])
        ]
        more = f" and {len(one.rivals) - _NAMED} more" if len(one.rivals) > _NAMED else ""
        if one.rivals:
            lines.append(f"Compared: {labels[0]} with {', '.join(labels[1:])}{more}.\n")
    return "".join(lines)


_NAMED = 5  # so many rivals are named


def request_of(asked: Mapping[str, Any], readout: Readout = SCORES) -> Request:
    """How to explain, of what the user passed; of a number, what lowers it is shown as well.

    Args:
        asked: As in `Request.of`.
        readout: What is explained.

    Raises:
        TypeError: As in `Request.of`.
        ValueError: As in `Request.of`.
    """
    request = Request.of(asked)
    if readout.is_number and asked.get("relu") is None and request.method.is_signed:
        return replace(request, relu=False)
    return request


def check_names(names: Any) -> None:
    """Raise TypeError unless ``names`` can name classes."""
    if names is None:
        return
    if not isinstance(names, (list, tuple, dict)):
        raise TypeError(
            "target_names must be a list with a name for each class, or a dict from class index to "
            f"name, got {type(names).__name__}"
        )
    for index in names if isinstance(names, dict) else ():
        if not isinstance(index, Integral):
            raise TypeError(
                f"target_names must have class indices (int) for keys, got {index!r}; of what JSON "
                "gives, {int(index): name for index, name in names.items()} makes such a dict"
            )
    for name in names.values() if isinstance(names, dict) else names:
        if not isinstance(name, (str, Integral)):  # digits are called by numbers
            raise TypeError(
                f"target_names must hold names (str), got {type(name).__name__}; a dict names some "
                "of the classes and leaves out the others"
            )


def name_of(target: int, names: TargetNames | None, classes: int) -> str | None:
    """The name of a class, where it is known.

    Raises:
        ValueError: If a list of names is not as long as there are classes.
    """
    if names is None:
        return None
    if isinstance(names, Mapping):
        name = names.get(target)
        return None if name is None else str(name)
    if len(names) != classes:
        raise ValueError(
            f"target_names must hold a name for each of the model's {classes} classes, and holds "
            f"{len(names)}"
        )
    return str(names[target])


def _floating(docs: np.ndarray) -> np.ndarray:
    return docs if np.issubdtype(docs.dtype, np.floating) else docs.astype(np.float32)


def _sizes(number: int, most: int) -> Iterator[int]:
    """How ``number`` splits into parts of at most ``most``."""
    for start in range(0, number, most):
        yield min(most, number - start)
