"""The options of an explanation, whatever the model, the doc and the class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kerasight import checks
from kerasight.cam.baselines import Baseline, check_baseline
from kerasight.cam.methods import DEFAULT, METHODS, Method, find_method
from kerasight.progress import check_progress

if TYPE_CHECKING:
    from jaxtyping import Integer

__all__ = ["OPTIONS", "Request", "check_options", "takes_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _option(default: Any, check: Callable[[str, Any], Any], ability: str = "") -> Any:
    """An option.

    Args:
        default: What None stands for.
        check: Makes a value of what a user passes.
        ability: What a `Method` must be, or have, for any other value; nothing if left out.
    """
    return field(default=default, metadata={"check": check, "ability": ability})


def _at_least(least: int) -> Callable[[str, Any], int]:
    return lambda name, value: checks.integer(name, value, least)


def _strength(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    strength = float(value)
    if not 0 <= strength < np.inf:  # also False for NaN
        raise ValueError(f"{name} must be at least 0, and finite, got {strength:g}")
    return strength


def _positive(name: str, value: Any) -> float:
    share = _strength(name, value)
    if not share:
        raise ValueError(f"{name} must be above 0, got 0; leave out smooth to add none")
    return share


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 3:
        raise TypeError(
            f"{name} must be the number of cells along each axis, such as (14, 14), got {value!r}"
        )
    return tuple(checks.integer(f"{name}: each number", one, 1) for one in value)


def _size(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple)) and 1 <= len(value) <= 3:
        return tuple(checks.integer(f"{name}: each number", one, 1) for one in value)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number of places, or one for each axis, such as (32, 32), got "
            f"{value!r}"
        )
    return checks.integer(name, value, 1)


def _labels(name: str, value: Any) -> Integer[np.ndarray, " ..."]:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be an array of whole numbers, a label each, got {got}")
    return value


def _number_or_classes(name: str, value: Any) -> int | tuple[int, ...]:
    if isinstance(value, (list, tuple, np.ndarray)):
        if len(value) == 0:
            raise ValueError(f"{name} must hold at least one class index, got none")
        for one in value:
            if not isinstance(one, Integral) or isinstance(one, bool):
                hint = "; of a name, pass names.index(name)" if isinstance(one, str) else ""
                raise TypeError(
                    f"{name} must hold integer class indices, got {type(one).__name__}{hint}"
                )
        return tuple(dict.fromkeys(int(one) for one in value))
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(
            f"{name} must be a number of classes, or a list of their indices, got "
            f"{type(value).__name__}"
        )
    return checks.integer(name, value, 1)


# CONTRIBUTING says what it takes to add an option.
@dataclass(frozen=True)
class Request:
    """How to explain: the options that all functions that explain take by name.

    Attributes:
        method: None is ``"grad-cam"``, and ``"hirescam"`` where the tokens of a transformer are
            explained. A class activation map: ``"grad-cam"``, ``"grad-cam++"``, ``"hirescam"``,
            ``"xgrad-cam"``, ``"layercam"``, ``"eigen-cam"``, ``"eigengrad-cam"``, ``"score-cam"``,
            ``"ablation-cam"``, ``"finer-cam"``, ``"shapley-cam"``, ``"refine-cam"``,
            ``"recipro-cam"`` or ``"opti-cam"``: `kerasight.cam.methods` has their formulas and
            papers. Score-CAM runs the model once for each channel of the layer, Opti-CAM for each
            of ``samples``; Ablation-CAM runs the part after the layer once for each channel,
            Recipro-CAM for each place, and ShapleyCAM twice; RefineCAM takes a pass for each
            layer, and all others take one. Or a gradient at the doc itself:
            ``"saliency"`` or ``"input-x-gradient"``, in one pass; ``"integrated-gradients"``,
            ``"expected-gradients"``, ``"smoothgrad"``, ``"smoothgrad-squared"`` or ``"vargrad"``,
            in one for each of ``samples``: `kerasight.cam.attributions` has these. Their heatmaps
            have the resolution of the doc; of a text they look at what the Embedding makes of it.
            Or the scores of the doc with parts hidden: ``"occlusion"``, ``"rise"`` or
            ``"kernel-shap"``, in `kerasight.cam.masking`. They need no gradients and no layer, run
            the model once for each window, mask or coalition, and have the resolution of the doc,
            or the words of a text.
            Or, of a transformer, what all its blocks attend to: ``"attention-rollout"``,
            ``"chefer"``, ``"beyond-intuition"`` or ``"legrad"``, in one pass:
            `kerasight.cam.attention` has these, and they take no ``layer``.
        logits: Whether to explain the score before the final softmax or sigmoid, as the Grad-CAM
            paper does; it also helps if a probability is saturated. The model does not change.
            ``score`` is then the logit. A model that ends in neither is explained as it is.
        relu: Whether to cut off what speaks against the class. None is True, but False for a number
            that is no class's (`kerasight.targets.Number`). If False, the heatmap is signed, in
            [-1, 1]. Not with methods whose evidence is never negative: ``"grad-cam++"``,
            ``"layercam"``, ``"eigen-cam"``, ``"eigengrad-cam"``, ``"score-cam"``, ``"refine-cam"``,
            ``"recipro-cam"``, ``"opti-cam"``, ``"saliency"``, ``"smoothgrad"``,
            ``"smoothgrad-squared"``, ``"vargrad"``, and those of attention.
        counterfactual: Whether to show what speaks against the class, as the paper's
            counterfactual explanations: the gradient is negated. For a head of one sigmoid unit,
            this is what speaks for the other class; ``targets=[0]`` is always the unit. Not with
            ``"eigen-cam"``, ``"eigengrad-cam"``, ``"score-cam"``, ``"recipro-cam"``,
            ``"opti-cam"``, ``"saliency"``, ``"smoothgrad"``, ``"smoothgrad-squared"``,
            ``"vargrad"`` and ``"attention-rollout"``.
        alpha: Only with ``"finer-cam"``: the share of the other classes' scores to subtract, at
            least 0, the paper's gamma. None is the paper's 0.6; 0 is Grad-CAM.
        references: Only with ``"finer-cam"``: the classes to compare with. A number takes that many
            classes with the nearest scores; a list holds their indices, and the explained class in
            it is ignored. None is the paper's 3.
        grid: The cells that a transformer cuts the doc into, ``(rows, columns)``. None finds them
            out: from the map that the tokens are cut from, or from the sizes of the doc and its
            patches. Tokens of no place, such as a class token, come first, and do not count.
        samples: Of methods that run the model on many changed docs, on how many; None is 50 steps
            of ``"integrated-gradients"``, 100 draws of ``"expected-gradients"``, 50 noisy copies
            for SmoothGrad and its kin, and 100 steps of ``"opti-cam"``; 4,000 masks of ``"rise"``;
            and 1,000 coalitions of ``"kernel-shap"``, or all that there are, if these are fewer.
        baseline: What stands for nothing there: ``"zero"``; ``"mean"``, the mean of each channel;
            ``"blur"``; ``"noise"``, with the mean and deviation of each channel; a number; or an
            array of the shape of a doc. For ``"expected-gradients"``, an array of several docs as
            well, of which some are drawn. None is ``"zero"`` for ``"integrated-gradients"``, and
            ``"noise"`` for ``"expected-gradients"``, new for each draw. Of the methods that hide
            parts, what stands in their place: None is ``"mean"``, which shows nothing however
            pixels are scaled, where ``"zero"``, as in RISE's paper, may be black; and ``"zero"``
            for rows of numbers ``(1, numbers)``, which may be of different things, and for words as
            numbers, where it is padding; if a model has no score of padding alone, hidden words are
            1, unknown to Keras's vocabularies. Hidden words of a string are taken out.
        window: Of the methods that hide parts, how much is hidden at a time: a number of places, or
            one for each axis of space. It is the window of ``"occlusion"``, the cell of ``"rise"``,
            and the square that ``"kernel-shap"`` takes for a segment. None is a seventh of each
            axis, rounded up; and 1 for texts and rows of numbers of up to 64 steps. At most the
            whole axis.
        stride: Only with ``"occlusion"``: how far the window moves at a time, at most its length.
            None is half the window, rounded up; and the whole window for volumes and videos.
        segments: Only with ``"kernel-shap"``: the segments, as whole numbers of the spatial size of
            the doc, one for each place: those with the same one are hidden together. The functions
            of ``skimage.segmentation``, such as ``slic``, make them. None is squares of ``window``.
        smooth: Average over this many copies of the doc with ``noise``, as in SmoothGrad (Smilkov
            et al. 2017, https://arxiv.org/abs/1706.03825). The doc without noise decides the class
            and the classes to compare with. None or 0 adds no noise.
        noise: The standard deviation of the normal noise, as a share of the range of the doc: of
            ``smooth``, and of SmoothGrad and its kin. None is 0.1: the lower end of the paper's 10
            to 20 %, since small classifiers see little but noise beyond it.
        seed: Seed of the noise; equal seeds give equal heatmaps.
        batch_size: How many inputs go through the model at a time.
        progress: Whether to show a progress bar, by tqdm, if a method runs the model often. None
            shows it on a terminal, and only after a second.
    """

    method: Method = _option(DEFAULT, lambda _, value: find_method(value))
    logits: bool = _option(False, checks.flag)
    relu: bool = _option(True, checks.flag, "is_signed")
    counterfactual: bool = _option(False, checks.flag, "has_counterfactual")
    alpha: float | None = _option(None, _strength, "compares")
    references: int | tuple[int, ...] | None = _option(None, _number_or_classes, "compares")
    grid: tuple[int, ...] | None = _option(None, _sizes)
    samples: int | None = _option(None, _at_least(1), "samples")
    baseline: Baseline | None = _option(None, check_baseline, "baseline")
    window: int | tuple[int, ...] | None = _option(None, _size, "hides")
    stride: int | tuple[int, ...] | None = _option(None, _size, "slides")
    segments: Integer[np.ndarray, " ..."] | None = _option(None, _labels, "segments")
    smooth: int = _option(0, _at_least(0))
    noise: float | None = _option(None, _positive)
    seed: int = _option(0, _at_least(0))
    batch_size: int = _option(32, _at_least(1))
    progress: bool | None = _option(None, lambda _, value: check_progress(value))

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Request:
        """A request of what the user passed, checked.

        Args:
            asked: Options by name; None for their defaults. Other names are left to others.

        Raises:
            TypeError: If something is of a type that it cannot be.
            ValueError: If something has a value that it cannot have, or that the method cannot do.
        """
        request = cls._checked(asked)
        for option in request._special():
            if not request._can(option):
                raise ValueError(request._refusal(option))
        request._check_noise()
        if request.window is not None and request.segments is not None:
            raise ValueError("segments and window exclude each other: pass one of them")
        return request

    @classmethod
    def of_methods(cls, methods: Iterable[Any], asked: Mapping[str, Any]) -> tuple[Request, ...]:
        """A request for each of several methods; an option goes to all that can do with it.

        Args:
            methods: Names of methods; one that comes again counts once.
            asked: As in `of`, but for ``method``.

        Raises:
            TypeError: As in `of`.
            ValueError: As in `of`; if none of the methods can do with an option.
        """
        request = cls._checked(asked)
        found = dict.fromkeys(map(find_method, methods))
        requests = {method: replace(request, method=method) for method in found}
        for option in request._special():
            able = [method for method, one in requests.items() if one._can(option)]
            if not able:
                raise ValueError(next(iter(requests.values()))._refusal(option))
            as_ever: dict[str, Any] = {option.name: option.default}
            for method in requests.keys() - set(able):
                requests[method] = replace(requests[method], **as_ever)
        if not any(one.takes_noise for one in requests.values()):
            next(iter(requests.values()))._check_noise()
        return tuple(requests.values())

    @classmethod
    def _checked(cls, asked: Mapping[str, Any]) -> Request:
        """What the user passed, whatever the method can do."""
        return cls(
            **{
                option.name: option.metadata["check"](option.name, asked[option.name])
                for option in fields(cls)
                if asked.get(option.name) is not None
            }
        )

    def _special(self) -> list[Field[Any]]:
        """The options that not all methods can do with, where they are other than by default."""
        return [
            option
            for option in fields(self)
            if option.metadata["ability"] and not _same(getattr(self, option.name), option.default)
        ]

    def _can(self, option: Field[Any]) -> bool:
        return bool(getattr(self.method, option.metadata["ability"]))

    @property
    def takes_noise(self) -> bool:
        """Whether noisy copies of the doc are made."""
        return bool(self.smooth) or self.method.needs == "noise"

    def _check_noise(self) -> None:
        if self.noise is not None and not self.takes_noise:
            raise ValueError(
                f"method {self.method.name!r} adds no noise: pass smooth=, the number of noisy "
                "copies, as well"
            )

    def _refusal(self, option: Field[Any]) -> str:
        ability = option.metadata["ability"]
        able = ", ".join(name for name, method in METHODS.items() if getattr(method, ability))
        if ability in _OF_WHAT:
            return (
                f"method {self.method.name!r} has no use for {option.name}: it "
                f"{_OF_WHAT[ability]}; those that have are {able}"
            )
        if ability == "compares":
            opacity = "; how opaque a heatmap is drawn is alpha_limit" * (option.name == "alpha")
            return (
                f"method {self.method.name!r} has no use for {option.name}: it compares no "
                f"classes, as {able} does{opacity}"
            )
        reason = (
            "knows no evidence against a class"
            if self.method.is_of_class
            else "does not depend on the class"
        )
        return (
            f"method {self.method.name!r} cannot do {option.name}={not option.default}: it "
            f"{reason}; those that can are {able}"
        )

    @property
    def title(self) -> str:
        """What the heatmap is called."""
        notes = [
            note
            for note, holds in (
                ("counterfactual", self.counterfactual),
                ("signed", not self.relu),
                (f"smoothed over {self.smooth}", self.smooth),
            )
            if holds
        ]
        return self.method.title + (f" ({', '.join(notes)})" if notes else "")


def _same(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, np.ndarray) and bool(value == default))


# Why a method has no use for an option, by the ability that it lacks.
_OF_WHAT = {
    "samples": "takes one pass, or as many as there are channels, places or windows",
    "baseline": "compares the doc with nothing",
    "hides": "hides no parts of the doc",
    "slides": "slides no window over the doc",
    "segments": "hides no segments",
}

OPTIONS = tuple(option.name for option in fields(Request))
"""The names of the options."""


def takes_options(*without: str) -> Callable[[Function], Function]:
    """Show the options in the signature of a function that takes them as ``**options``.

    Args:
        *without: Names of options that it does not take.
    """

    def shown(function: Function) -> Function:
        signature = inspect.signature(function)
        named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        options = [
            inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for option in fields(Request)
            if option.name not in (*signature.parameters, *without)
            for default in [None if option.default is DEFAULT else option.default]
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*named, *options]
        )
        return function

    return shown


def check_options(options: Mapping[str, Any], *without: str) -> None:
    """Raise TypeError if one of the names is that of no option, or is one of ``without``."""
    known = [option for option in OPTIONS if option not in without]
    for option in options.keys() - set(known):
        near = checks.nearest(option, known) or f"; known are {', '.join(known)}"
        raise TypeError(f"there is no option {option!r}{near}")
