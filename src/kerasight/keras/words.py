"""The words of a text that a model takes: at which step each comes, and where it stands."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasight.base import DocError, RunError
from kerasight.cam.words import Words
from kerasight.checks import plural
from kerasight.keras.anatomy import Anatomy

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped

__all__ = ["text_in", "vectorizer_of", "words_of"]

# TensorFlow splits at the spaces of ASCII alone, and TextVectorization strips only its punctuation
# and lowers only its letters; `str.split` and `str.lower` do more.
_RUN = re.compile(r"[^ \t\n\r\f\v]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_STANDARDS = (None, "lower", "strip_punctuation", "lower_and_strip_punctuation")
_SPLITS = (None, "whitespace", "character")

# The id that TextVectorization gives a word that it does not know.
_UNKNOWN = 1

# Ids that an error tells, at most.
_MOST_TOLD = 5


def text_in(doc: Any) -> str | None:
    """The text that a doc is; None if it holds no strings.

    Args:
        doc: A string; a list, array or tensor of shape ``(1,)`` or ``(1, 1)`` with one; or anything
            else.

    Raises:
        ValueError: If there are several strings in it, or none.
        DocError: If the string cannot be written in UTF-8, as TensorFlow has it.
    """
    if isinstance(doc, (str, bytes)):
        doc = [doc]
    if _is_ragged(doc) or not (isinstance(doc, (list, tuple)) or hasattr(doc, "dtype")):
        return None
    try:
        given = np.asarray(doc)
    except ValueError:  # lists of different lengths
        return None
    strings = given.ravel().tolist()
    if not strings or not all(isinstance(one, (str, bytes)) for one in strings):
        return None
    if given.shape not in ((1,), (1, 1)):
        raise ValueError(
            "doc must be one text, a string or an array of one, got "
            f"{plural(len(strings), 'string')} in shape {given.shape}; one text is explained at a "
            "time, for example doc[:1], and its words are joined by spaces"
        )
    try:
        (text,) = [one.decode() if isinstance(one, bytes) else one for one in strings]
        text.encode()
    except UnicodeError as error:
        raise DocError(f"doc must be text in UTF-8: {error}") from None
    return str(text)


def vectorizer_of(anatomy: Anatomy) -> keras.layers.TextVectorization | None:
    """The first TextVectorization in a model, at whatever depth; None if it has none."""
    layers = (layer for _, layer in anatomy.layers)
    return next((one for one in layers if isinstance(one, keras.layers.TextVectorization)), None)


def words_of(
    anatomy: Anatomy,
    doc: str | Shaped[np.ndarray, " ..."],
    *,
    vocabulary: Any = None,
    tokens: Sequence[str] | None = None,
) -> Words:
    """The words of a doc, step by step.

    Words are those of ``tokens``, else of ``vocabulary``, else of the TextVectorization in the
    model, else ids such as ``"#17"``. A text stays as it is, with each word where it stands, also
    if the model does not know it, unless the layer standardises or splits it by a function of the
    user's, or into n-grams. Of ids, and in these cases, the text is the words joined by spaces.

    Args:
        anatomy: The model.
        doc: A text as in `text_in`, for a model that starts with a TextVectorization; or the ids of
            tokens ``(1, steps)``, for one that starts with an Embedding. Ids may be floats, as
            Keras makes them of a doc.
        vocabulary: The word of each id: a list; a dict of words by ids; or a TextVectorization or
            StringLookup. For ids alone.
        tokens: The word of each step, padding included.

    Returns:
        The words. The ids 0 at both ends are padding if the Embedding masks them, or if their word
        is ``""``, and so are steps whose token is ``""``.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If there is more than one doc; if ``tokens`` or ``vocabulary`` do not fit it; or
            if both are there.
        DocError: If there is no word in it.
        RunError: If the model takes no texts, or counts their words.
    """
    if vocabulary is not None and tokens is not None:
        raise ValueError("pass vocabulary, the word of each id, or tokens, that of each step")
    text, layer = text_in(doc), vectorizer_of(anatomy)
    if text is not None and vocabulary is not None:
        raise ValueError(
            "vocabulary is for a doc of ids: the words of a text are those that stand in it"
        )
    ids = _ids_in(doc) if text is None else _ids_of(anatomy, layer, text)
    known = _by_id(layer if vocabulary is None else vocabulary)
    is_padding = _is_padding(ids, is_marked=known.get(0) == "" or _masks_zeros(anatomy))
    if tokens is not None:
        given = zip(_checked(tokens, ids), is_padding, strict=True)
        named = [None if pads else token for token, pads in given]
    elif text is not None and (found := _standing(layer, text, ids, known)):
        return Words(text, (*found, *[None] * (len(ids) - len(found))))
    else:
        named = _named(ids, is_padding, known)
    if not any(named):
        why = "is all padding" if text is None else "is empty, or nothing but punctuation"
        raise DocError(f"doc has no words: it {why}")
    return _joined(named)


def _is_ragged(doc: Any) -> bool:
    """Whether this is a `tf.RaggedTensor`; no framework is imported to tell."""
    return hasattr(doc, "row_splits")


def _ids_in(doc: Any) -> Shaped[np.ndarray, " steps"]:
    """The ids of one doc, as integers."""
    advice = ""
    try:
        given = np.asarray([[]] if _is_ragged(doc) else doc)
    except ValueError:  # lists of different lengths
        given = np.asarray([[]])
    if given.ndim == 1 and given.size and given.dtype != object:
        advice = "; add the batch axis with np.expand_dims(doc, axis=0)"
    elif given.ndim == 2 and len(given) > 1:
        advice = "; one doc is explained at a time, for example doc[:1]"
    if given.ndim != 2 or len(given) != 1 or not given.size:
        what = f"shape {given.shape}" if given.size else "docs of different lengths, or none"
        if not given.size:
            advice = "; pad them with keras.utils.pad_sequences, and pass one"
        raise ValueError(
            "doc must be one text, a string, or its tokens as ids of shape (1, steps), got "
            f"{what}{advice}"
        )
    if given.dtype.kind not in "iuf":
        raise TypeError(f"the ids of tokens must be whole numbers, got dtype {given.dtype}")
    row = given[0]
    is_id = np.isfinite(row) & (row >= 0) & (row == np.rint(row))
    if not is_id.all():
        raise ValueError(f"the ids of tokens must be whole numbers from 0, got {row[~is_id][0]}")
    ids: np.ndarray = row.astype(np.int64)
    return ids


def _ids_of(anatomy: Anatomy, layer: Any, text: str) -> Shaped[np.ndarray, " steps"]:
    """The ids that a model's own layer makes of a text."""
    name = anatomy.model.name
    if layer is None:
        raise RunError(
            f"model {name!r} has no TextVectorization layer to take a text: pass the ids of its "
            "tokens, of shape (1, steps)"
        )
    config = layer.get_config()
    if config["output_mode"] != "int" or config["ragged"]:
        how = "ragged=True" if config["ragged"] else f"output_mode={config['output_mode']!r}"
        raise RunError(
            f"layer {anatomy.path_of(layer)!r} must put out a row of ids, to be told word by word, "
            f"and has {how}"
        )
    ids: np.ndarray = keras.ops.convert_to_numpy(layer(np.array([[text]])))[0].astype(np.int64)
    return ids


def _by_id(vocabulary: Any) -> dict[int, str]:
    """The words by their ids; empty if there is no vocabulary."""
    if vocabulary is None:
        return {}
    if hasattr(vocabulary, "get_vocabulary"):
        vocabulary = vocabulary.get_vocabulary()
    if isinstance(vocabulary, Mapping):
        known = dict(vocabulary)
        if all(isinstance(one, str) for one in known) and known:
            raise TypeError(
                "vocabulary must be a dict of words by ids, got one of ids by words; turn it "
                "around with {id: word for word, id in vocabulary.items()}, and heed the ids that "
                "the data set keeps for itself"
            )
    elif isinstance(vocabulary, (list, tuple, np.ndarray)):
        known = dict(enumerate(vocabulary))
    else:
        raise TypeError(
            "vocabulary must be a list of words, a dict of words by ids, or a TextVectorization or "
            f"StringLookup layer, got {type(vocabulary).__name__}"
        )
    for number, word in known.items():
        if not isinstance(number, Integral) or not isinstance(word, str):
            raise TypeError(f"vocabulary must hold words by ids, got {word!r} for {number!r}")
    return {int(number): str(word) for number, word in known.items()}


def _masks_zeros(anatomy: Anatomy) -> bool:
    """Whether an Embedding of the model leaves the id 0 out."""
    return any(
        isinstance(layer, keras.layers.Embedding) and layer.mask_zero for _, layer in anatomy.layers
    )


def _is_padding(ids: Shaped[np.ndarray, " steps"], is_marked: bool) -> Bool[np.ndarray, " steps"]:
    """Whether a step is padding: a 0 before the first or behind the last word, if 0 marks it."""
    words = np.flatnonzero(ids) if is_marked else np.arange(len(ids))
    is_padding = np.ones(len(ids), dtype=bool)
    if words.size:
        is_padding[words[0] : words[-1] + 1] = False
    return is_padding


def _checked(tokens: Any, ids: Shaped[np.ndarray, " steps"]) -> list[str]:
    """The tokens that a user passed, one a step."""
    if not isinstance(tokens, (list, tuple, np.ndarray)):
        raise TypeError(f"tokens must be a list of str, got {type(tokens).__name__}")
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"tokens must be a list of str, got {type(token).__name__} in it")
    if len(tokens) != len(ids):
        raise ValueError(
            f"tokens must have one for each of {plural(len(ids), 'step')}, "
            f"and '' for padding; got {len(tokens)}"
        )
    return list(map(str, tokens))


def _standing(
    layer: Any, text: str, ids: Shaped[np.ndarray, " steps"], known: dict[int, str]
) -> list[tuple[str, int, int]]:
    """The words where they stand in a text; none if that is not what the layer makes of it."""
    config = layer.get_config()
    standard, split = config["standardize"], config["split"]
    if standard not in _STANDARDS or split not in _SPLITS or config["ngrams"]:
        return []
    runs = {None: re.compile("(?s).+"), "whitespace": _RUN, "character": re.compile("(?s).")}[split]
    found = []
    for match in runs.finditer(text):
        word, start, end = match[0], match.start(), match.end()
        if "strip" in (standard or ""):
            start += len(word) - len(word.lstrip(string.punctuation))
            end -= len(word) - len(word.rstrip(string.punctuation))
            word = word.translate(_PUNCTUATION)
        if "lower" in (standard or ""):
            word = word.translate(_LOWER)
        if word:
            found.append((word, start, end))
    found = found[: len(ids)]
    places = {word: number for number, word in known.items()}
    thought = [places.get(word, _UNKNOWN) for word, _, _ in found]
    is_so = thought + [0] * (len(ids) - len(found)) == ids.tolist()
    return found if is_so else []


def _named(
    ids: Shaped[np.ndarray, " steps"],
    is_padding: Bool[np.ndarray, " steps"],
    known: dict[int, str],
) -> list[str | None]:
    """The word of each id, None for padding."""
    missing = sorted({*ids[~is_padding].tolist()} - known.keys()) if known else []
    if missing:
        told = ", ".join(map(str, missing[:_MOST_TOLD])) + (", ..." * (len(missing) > _MOST_TOLD))
        advice = "; if 0 is padding, let its word be ''" if 0 in missing else ""
        raise ValueError(
            f"vocabulary must have a word for each id of doc, and has none for {told}; its "
            f"{plural(len(known), 'word')} have the ids {min(known)} to {max(known)}{advice}"
        )
    return [
        None if pads else known.get(number) or f"#{number}"
        for number, pads in zip(ids.tolist(), is_padding.tolist(), strict=True)
    ]


def _joined(named: Iterable[str | None]) -> Words:
    """Words joined by spaces to a text; None and ``""`` are padding."""
    steps: list[tuple[str, int, int] | None] = []
    end = -1
    for word in named:
        start = end + 1
        if word:
            end = start + len(word)
        steps.append((word, start, end) if word else None)
    return Words(" ".join(step[0] for step in steps if step), tuple(steps))
