"""The one way from a model and docs to explanations.

An `Explainer` is a model and all that is asked of it whatever the doc. It looks at a batch of docs
in one pass for each layer (`Explainer.look`). Of what was seen, a formula makes evidence, and a
`Look` makes heatmaps and an ``Explanation`` of that, doc by doc.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from PIL import Image

from kerasight.base import (
    DocError,
    Explanation,
    HeatmapWarning,
    RunError,
    TargetExplanation,
    outside,
)
from kerasight.cam.heatmap import Evidence, Heatmap, fused
from kerasight.cam.inputs import Inputs
from kerasight.cam.maps import normalised
from kerasight.cam.methods import ALPHA, METHODS, REFERENCES
from kerasight.cam.request import Request
from kerasight.cam.words import Words, weighted
from kerasight.checks import is_real
from kerasight.keras import blank, passes, running, sites
from kerasight.keras import docs as doors
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import (
    Record,
    Terms,
    record_batch,
    record_blocks,
    record_from_outside,
)
from kerasight.keras.subject import Subject, noise_for, parts
from kerasight.keras.targets import Contrast, Negative, Target
from kerasight.keras.ways import WAYS
from kerasight.keras.words import words_of
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
    "request_for",
]

TargetNames: TypeAlias = Sequence[str] | Mapping[int, str]
LayerKey: TypeAlias = int | str | keras.layers.Layer | sites.Site
LayerKeys: TypeAlias = LayerKey | list[LayerKey]

# In a batch, sums are taken in another order. So a doc may differ by this share from what it gives
# by itself: by 1e-6 on a CPU, by more on a GPU.
_ROUNDING = 3e-3


# Why a method takes no layer, by where it looks.
_NO_LAYER = {
    "blocks": "looks at all blocks of a transformer, and has no use for layer",
    "outside": "hides parts of the doc, and looks at no layer; leave out layer",
}


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
        vocabulary: Of texts, the word of each number, as `words_of` takes it; None asks the model.
        tokens: Of a text, the word of each step; None where the numbers or the text itself tell.
    """

    model: keras.Model
    request: Request = field(default_factory=Request)
    layer: LayerKeys | None = None
    names: TargetNames | None = None
    readout: Readout = SCORES
    vocabulary: Any = None
    tokens: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_names(self.names)
        if isinstance(self.layer, list) and not self.layer:
            raise ValueError("layer must hold at least one layer, got an empty list")
        if isinstance(self.layer, list) and any(one is None for one in self.layer):
            raise TypeError(
                "layer must hold layers, got None in the list; to have one chosen, pass it "
                "in place of the list"
            )
        if self.layer is not None and not self.request.method.sees_layers:
            method = self.request.method
            raise ValueError(f"method {method.name!r} {_NO_LAYER[method.at]}")

    @cached_property
    def anatomy(self) -> Anatomy:
        """What is known of the model."""
        return Anatomy(self.model, self.readout)

    def settled(self, facts: Sequence[Shaped[np.ndarray, " ..."]]) -> Explainer:
        """What to ask of changed copies of a doc, given the facts of that."""
        readout = self.readout.settled(facts)
        # Gradients are those of the outputs as they are.
        is_same = readout is self.readout or self.request.method.at != "outside"
        return self if is_same else replace(self, readout=readout)

    def check_layer(self) -> None:
        """Refuse a layer that is not there, as far as that can be told before the model runs."""
        keys = self.layer if isinstance(self.layer, list) else [self.layer]
        for key in keys:
            if key is not None and (self.model.built or not isinstance(key, str)):
                sites.find_site(self.anatomy, key)

    def look(self, docs: Shaped[np.ndarray, "docs ..."] | Inputs, target: Target) -> Look:
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
        chosen: list[sites.Site | None]
        if self.request.method.at == "outside":
            chosen = [None]
            if inputs.docs.ndim > 2:  # else they may be numbers of words, or of categories
                inputs = _of_floats(inputs)
        elif self.layer is None and self.request.method.at == "doc":
            chosen = [self._site_of_doc(inputs)]
            inputs = _of_floats(inputs)
        else:
            chosen = [None if key is None else self._site(inputs, key) for key in keys]
        records = [self.record(inputs, target, site) for site in chosen]
        if self.layer is None and self.request.method.at == "layers":
            records = [*self._finer(inputs, target, records[0]), *records]
        return Look(self._for_tokens(records), inputs, records)

    def _for_tokens(self, records: Sequence[Record]) -> Explainer:
        """What is asked where tokens were seen, if no method was."""
        name = self.request.method.of_tokens
        layouts = [record.site.layout for record in records]
        if not name or not all(layout is not None and layout.grid for layout in layouts):
            return self
        return replace(self, request=replace(self.request, method=METHODS[name]))

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

    def _site_of_doc(self, inputs: Inputs) -> sites.Site:
        """The doc itself; of a text, what the model makes of its words first."""
        anatomy = self.anatomy
        if doors.kind_of(anatomy, inputs) != "text":
            return sites.site_of_docs(anatomy, inputs)
        embeddings = (one for _, one in anatomy.layers if isinstance(one, keras.layers.Embedding))
        first = next(embeddings, None)
        if first is None:
            raise RunError(
                f"words have no gradients, and model {self.model.name!r} has no Embedding that "
                "makes numbers of them; pass the layer that does as layer="
            )
        return sites.Site(first)

    def _finer(self, inputs: Inputs, target: Target, last: Record) -> list[Record]:
        """The last layer of each finer resolution before a layer, the finest first.

        That is up to a quarter of the resolution of the docs, as what is finer has seen but edges,
        and from one with twice as many cells on, so that padding makes no resolution.
        """
        found, size = [last], self.anatomy.size_of_docs(inputs)
        for site, spatial in passes.maps_before(self.anatomy, inputs, last.site, self.request.grid):
            cells = math.prod(found[-1].activations.shape[1:-1])
            is_finer = math.prod(spatial) >= 2 * cells
            if is_finer and all(
                4 * one <= of_doc for one, of_doc in zip(spatial, size, strict=True)
            ):
                with contextlib.suppress(RunError):  # it leads nowhere
                    found.append(self.record(inputs, target, site))
        return found[:0:-1]

    def _site(self, inputs: Inputs, key: LayerKey) -> sites.Site:
        """Find a site, also at a layer that is made when the model is first called."""
        try:
            return sites.find_site(self.anatomy, key)
        except ValueError:
            if self.model.built:
                raise
        running.build(self.anatomy, inputs)
        return sites.find_site(self.anatomy, key)

    def record(
        self,
        inputs: Inputs,
        target: Target,
        site: sites.Site | None,
        needs_gradients: bool | None = None,
    ) -> Record:
        """A pass over docs, at one site; None has it chosen.

        Args:
            inputs: The docs.
            target: What to differentiate.
            site: Where to look; of a method that looks at all blocks, it does not count.
            needs_gradients: As in `record_batch`; None asks the method.

        Raises:
            RunError: As in `record_batch`.
        """
        request = self.request
        is_at_doc = request.method.at == "doc" and site is not None and site.layer is self.model
        # What takes the gradients of changed docs has no use for those of the doc.
        if request.method.at == "outside" or (is_at_doc and not request.method.takes_gradients):
            return record_from_outside(self.anatomy, inputs, target, site, logits=request.logits)
        if request.method.at == "blocks":
            return record_blocks(
                self.anatomy,
                inputs,
                target,
                logits=request.logits,
                needs=request.method.needs,
                grid=request.grid,
            )
        if needs_gradients is None:
            # Where the site is chosen, that it has a gradient is what tells it from others.
            needs_gradients = site is None or request.method.takes_gradients
        return record_batch(
            self.anatomy,
            inputs,
            target,
            site,
            logits=request.logits,
            needs_gradients=needs_gradients,
            grid=request.grid,
        )


@dataclass
class Batches:
    """Looks at docs in batches, as far as each then gives what it gives by itself.

    Attributes:
        explainer: What is asked of every doc.
    """

    explainer: Explainer
    _mixes_docs: bool | None = field(default=None, init=False)

    def look(self, docs: Shaped[np.ndarray, "docs ..."] | Inputs, target: Target) -> Look | None:
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
        relu, method = self.explainer.request.relu, self.explainer.request.method
        formula = method.formula if method.needs == "layers" else None
        of_layers = [self._at(record, doc) for record in self.records]
        return [fused(of_class, relu, formula) for of_class in zip(*of_layers, strict=True)]

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
        kind = doors.kind_of(explainer.anatomy, self.inputs)
        if image is not None and kind != "picture":
            raise DocError(f"image is a picture to lay heatmaps over, and the doc is a {kind}")
        words = self._words(doc) if kind == "text" else None
        heatmaps = self.heatmaps(doc)
        targets = []
        for heatmap in heatmaps:
            readout = explainer.readout
            fields = {
                "target": heatmap.target,
                "score": heatmap.score,
                "heatmap": heatmap.values,
                "signed": not request.relu,
                "gap": heatmap.gap,
                **self._told(heatmap.target, doc),
            }
            if readout.has_classes:
                fields["name"] = name_of(heatmap.target, explainer.names, len(heatmap.scores))
                fields["is_probability"] = not request.logits and bool(
                    (heatmap.scores >= 0).all() and (heatmap.scores <= 1).all()
                )
            if words is not None:
                fields["weighted_spans"], fields["feature_weights"] = weighted(
                    words, heatmap.values
                )
            target = TargetExplanation(**fields)
            targets.append(target)
            blank.warn_of(heatmap, target.label, explainer, self.inputs[doc : doc + 1])
            _warn_of_gap(target, request)
        return Explanation(
            explainer.model.name,
            description=_description(heatmaps[0], explainer, kind)
            + _comparisons(heatmaps, explainer)
            + _completeness(heatmaps, explainer),
            error="",
            method=request.title,
            is_regression=explainer.readout.is_number,
            targets=targets,
            image=image,
            layer=heatmaps[0].path or None,
            kind=kind or "picture",
            doc=None if kind in ("picture", "text") else self._places(doc),
        )

    def _words(self, doc: int) -> Words:
        """The words of a doc that is a text."""
        explainer = self.explainer
        given = self.inputs.docs[doc : doc + 1]
        return words_of(
            explainer.anatomy, given, vocabulary=explainer.vocabulary, tokens=explainer.tokens
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
        one = slice(doc, doc + 1)
        target = record.target.of_docs(one)
        return self.explainer.record(self.inputs[one], target, record.site, needs_gradients=False)

    def _at(self, record: Record, doc: int) -> list[Heatmap]:
        """The heatmaps of a doc at one layer."""
        request = self.explainer.request
        one = slice(doc, doc + 1)
        settled = self.explainer.settled([fact[doc] for fact in record.facts])
        subject = Subject(
            settled.anatomy,
            request,
            self.inputs[one],
            record.terms(doc),
            record.target.of_docs(one),
        )
        found = (
            _smooth_evidence(subject, settled)
            if request.smooth
            else WAYS[request.method.needs](subject)
        )
        return [
            Heatmap(
                values=normalised(one.values, request.relu),
                evidence=one.values,
                target=term.target,
                scores=term.scores,
                rivals=term.rivals,
                site=None if request.method.at == "blocks" else term.site,
                path=term.path,
                is_of_zeros=not term.activations.any(),
                total=one.total,
            )
            for one, term in zip(found, subject.terms, strict=True)
        ]


def _smooth_evidence(subject: Subject, explainer: Explainer) -> list[Evidence]:
    """The mean evidence over noisy copies of a doc."""
    request = explainer.request
    random = np.random.default_rng(request.seed)
    doc = subject.numbers("smooth adds noise to the doc")
    sums = [np.zeros(one.activations.shape[:-1]) for one in subject.terms]
    for some in parts(request.smooth, request.batch_size):
        size = some.stop - some.start
        noise = noise_for(doc, request, random, (size, *doc.shape[1:]))
        noisy = subject.inputs.with_docs(doc + noise)
        record = explainer.record(noisy, subject.target, subject.site)
        for copy in range(size):
            terms = record.terms(copy)
            of_copy = replace(subject, inputs=noisy[copy : copy + 1], terms=terms)
            each = WAYS[request.method.needs](of_copy)
            for total, evidence in zip(sums, each, strict=True):
                total += evidence.values
    return [Evidence(total / request.smooth) for total in sums]


def _of_floats(inputs: Inputs) -> Inputs:
    """Docs as numbers that can be differentiated by; words as they are."""
    return inputs.with_docs(running.as_floats(inputs.docs)) if is_real(inputs.docs) else inputs


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
        does = "blocks attend" if request.method.at == "blocks" else "layer responds"
        speaks = f"the {does} to most, whatever the class"
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
        labels = [_label(index, explainer, one) for index in (one.target, *one.rivals[:_NAMED])]
        more = f" and {len(one.rivals) - _NAMED} more" if len(one.rivals) > _NAMED else ""
        if one.rivals:
            lines.append(f"Compared: {labels[0]} with {', '.join(labels[1:])}{more}.\n")
    return "".join(lines)


def _completeness(heatmaps: Sequence[Heatmap], explainer: Explainer) -> str:
    """A line for each target whose evidence must sum to something."""
    return "".join(
        f"Completeness: the evidence for {_label(one.target, explainer, one)} sums to "
        f"{one.evidence.sum():.4g}, and the score rises by {one.total:.4g} from the baseline's.\n"
        for one in heatmaps
        if one.total is not None
    )


def _label(index: int, explainer: Explainer, heatmap: Heatmap) -> str:
    name = name_of(index, explainer.names, len(heatmap.scores))
    return TargetExplanation(index, name=name).label


# A greater share that is missing is told in a warning.
_MOST_MISSING = 0.05


def _warn_of_gap(target: TargetExplanation, request: Request) -> None:
    """Warn if evidence that must sum to a difference of scores does not."""
    if target.gap is not None and target.gap > _MOST_MISSING:
        warnings.warn(
            f"the evidence for {target.label} misses {target.gap:.0%} of what it must sum to: pass "
            f"more samples than {request.samples or request.method.samples}",
            HeatmapWarning,
            stacklevel=outside(),
        )


_NAMED = 5  # so many rivals are named


def request_for(asked: Mapping[str, Any], readout: Readout = SCORES) -> Request:
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
