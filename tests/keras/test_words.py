from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

from kerasight.base import DocError, RunError
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.words import text_in, vectorizer_of, words_of

VOCABULARY = ["", "[UNK]", "the", "film", "dont", "good", "a", "ä"]


def vectorizer(**kwargs: Any) -> kl.TextVectorization:
    return kl.TextVectorization(**{"vocabulary": VOCABULARY[2:], **kwargs})


def anatomy_of(*layers: kl.Layer, inputs: Any = None) -> Anatomy:
    layers = (*layers, kl.Embedding(20, 2), kl.GlobalAveragePooling1D())
    return Anatomy(keras.Sequential([inputs or keras.Input((1,), dtype="string"), *layers]))


def of_text(text: Any, **kwargs: Any) -> Any:
    return words_of(anatomy_of(vectorizer(**kwargs)), text)


def of_ids(ids: Any, mask_zero: bool = False, **kwargs: Any) -> Any:
    model = keras.Sequential([kl.Embedding(20, 2, mask_zero=mask_zero), kl.Flatten()])
    return words_of(Anatomy(model), ids, **kwargs)


# Texts


def test_words_stand_in_the_text_as_it_was_written() -> None:
    text = "  \"Don't,\"\tsay - the  FILM's fans; well-made!\n"
    words = of_text(text)
    assert words.document == text
    assert [(word, text[start:end]) for word, start, end in words.steps] == [
        ("dont", "Don't"),
        ("say", "say"),
        ("the", "the"),
        ("films", "FILM's"),
        ("fans", "fans"),
        ("wellmade", "well-made"),
    ]
    assert words.steps[0] == ("dont", 3, 8)


def test_steps_behind_the_words_are_padding_and_words_behind_the_steps_are_left_out() -> None:
    assert of_text("the film", output_sequence_length=4).steps == (
        ("the", 0, 3),
        ("film", 4, 8),
        None,
        None,
    )
    words = of_text("the film the film", output_sequence_length=2)
    assert words.document == "the film the film"
    assert words.steps == (("the", 0, 3), ("film", 4, 8))


@pytest.mark.parametrize(
    ("standardize", "split", "steps"),
    [
        ("lower", "whitespace", [("a!", 0, 2), ("b", 3, 4)]),
        ("strip_punctuation", "whitespace", [("A", 0, 1), ("B", 3, 4)]),
        (None, "whitespace", [("A!", 0, 2), ("B", 3, 4)]),
        (None, None, [("A! B", 0, 4)]),
        ("lower_and_strip_punctuation", None, [("a b", 0, 4)]),
        (
            "lower_and_strip_punctuation",
            "character",
            [("a", 0, 1), (" ", 2, 3), ("b", 3, 4)],
        ),
        (None, "character", [("A", 0, 1), ("!", 1, 2), (" ", 2, 3), ("B", 3, 4)]),
    ],
)
def test_each_way_to_standardise_and_split_is_heeded(
    standardize: Any, split: Any, steps: list[Any]
) -> None:
    words = of_text("A! B", standardize=standardize, split=split)
    assert words.document == "A! B"
    assert list(words.steps) == steps


@pytest.mark.parametrize(
    "text",
    [
        "a\x0bgood\x0cthe\r\nfilm",
        "a\xa0good the\u3000film a\x1cb\x85c",  # which Python splits, and TensorFlow does not
        "\u00c4 \u00e4 \u0130 \u1e9e",  # which Python lowers, and TensorFlow does not
        "the \U0001f600 film\u2026 \u201cgood\u201d",
        "".join(map(chr, range(1, 128))),
        "the\u0000film",
    ],
)
def test_the_words_are_those_that_the_layer_looks_up(text: str) -> None:
    plain = kl.TextVectorization()
    plain.adapt(np.array([[text]]))
    known = plain.get_vocabulary()
    layer = vectorizer(vocabulary=known[2:])
    words = words_of(anatomy_of(layer), text)
    ids = keras.ops.convert_to_numpy(layer(np.array([[text]])))[0]
    assert words.document == text
    assert [word for word, _, _ in words.steps] == [known[number] for number in ids]


def cut(texts: Any) -> Any:
    import tensorflow as tf

    return tf.strings.split(tf.strings.regex_replace(texts, "o", "o "))


@pytest.mark.parametrize(
    ("kwargs", "document"),
    [
        ({"split": cut, "vocabulary": ["go", "o", "d"]}, "[UNK] go o d"),
        ({"standardize": lambda texts: texts + " film"}, "the good film"),
        ({"ngrams": 2, "vocabulary": ["the", "the good"]}, "the [UNK] the good"),
    ],
)
def test_what_the_users_own_functions_make_is_told_in_the_words_of_the_layer(
    kwargs: Any, document: str
) -> None:
    if keras.config.backend() != "tensorflow":
        pytest.skip("functions of a user get other strings on other frameworks")
    words = of_text("the good", **kwargs)
    assert words.document == document
    assert [document[start:end] for _, start, end in words.steps] == [
        word for word, _, _ in words.steps
    ]


@pytest.mark.parametrize(
    "doc",
    [
        "the film",
        b"the film",
        np.str_("the film"),
        ["the film"],
        ("the film",),
        [["the film"]],
        np.array(["the film"]),
        np.array([["the film"]]),
        np.array([["the film"]], dtype=object),
        np.array([b"the film"]),
    ],
)
def test_a_text_comes_in_many_forms(doc: Any) -> None:
    assert text_in(doc) == "the film"
    assert len(of_text(doc).steps) == 2


def test_a_text_may_be_a_tensor() -> None:
    tf = pytest.importorskip("tensorflow")
    assert text_in(tf.constant([["\u00e4"]])) == "\u00e4"
    assert text_in(tf.ragged.constant([["a"], ["b", "c"]])) is None


@pytest.mark.parametrize(
    "doc", [None, 3, len, [1, 2], [], np.zeros((1, 3)), [[1], [2, 3]], {"a": "b"}]
)
def test_what_holds_no_strings_is_no_text(doc: Any) -> None:
    assert text_in(doc) is None


@pytest.mark.parametrize("doc", [["a", "b"], np.array([["a", "b"]]), [["a"], ["b"]]])
def test_several_texts_are_refused(doc: Any) -> None:
    with pytest.raises(ValueError, match=r"one text, .* got 2 strings in shape .*doc\[:1\]"):
        of_text(doc)


@pytest.mark.parametrize("doc", ["", "  \n", "!?", "...\t-"])
@pytest.mark.parametrize("length", [None, 4])
def test_an_empty_text_is_refused(doc: str, length: int | None) -> None:
    with pytest.raises(DocError, match="no words: it is empty, or nothing but punctuation"):
        of_text(doc, output_sequence_length=length)


@pytest.mark.parametrize("doc", ["\ud800", b"\xff"])
def test_a_text_must_be_one(doc: Any) -> None:
    with pytest.raises(DocError, match="doc must be text in UTF-8"):
        text_in(doc)


def test_the_layer_is_found_at_any_depth() -> None:
    layer = vectorizer()
    inner = keras.Sequential([keras.Input((1,), dtype="string"), layer])
    anatomy = anatomy_of(inner)
    assert vectorizer_of(anatomy) is layer
    assert words_of(anatomy, "the").steps == (("the", 0, 3),)
    assert vectorizer_of(Anatomy(keras.Sequential([kl.Embedding(2, 2)]))) is None


def test_a_text_for_a_model_of_ids_is_refused() -> None:
    with pytest.raises(RunError, match=r"no TextVectorization layer.*ids.*\(1, steps\)"):
        of_ids("the film")


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [({"output_mode": "multi_hot"}, "output_mode='multi_hot'"), ({"ragged": True}, "ragged=True")],
)
def test_a_layer_that_gives_no_row_of_ids_is_refused(kwargs: Any, told: str) -> None:
    if "ragged" in kwargs and keras.config.backend() != "tensorflow":
        pytest.skip("Keras has ragged tensors on TensorFlow alone")
    layer = vectorizer(**kwargs)
    model = keras.Sequential([layer])
    with pytest.raises(RunError, match=f"must put out a row of ids, .*has {told}"):
        words_of(Anatomy(model), "the film")


# Ids


def test_without_words_there_are_ids() -> None:
    words = of_ids(np.array([[17, 3, 17]]))
    assert words.document == "#17 #3 #17"
    assert words.steps == (("#17", 0, 3), ("#3", 4, 6), ("#17", 7, 10))


@pytest.mark.parametrize(
    "vocabulary",
    [
        VOCABULARY,
        tuple(VOCABULARY),
        np.array(VOCABULARY),
        dict(enumerate(VOCABULARY)),
        {np.int64(3): "film", 2: "the", 0: ""},
        vectorizer(),
        kl.StringLookup(vocabulary=VOCABULARY[2:], mask_token=""),
    ],
)
def test_words_come_from_a_vocabulary(vocabulary: Any) -> None:
    words = of_ids(np.array([[0, 3, 2, 0, 0]]), vocabulary=vocabulary)
    assert words.document == "film the"
    assert words.steps == (None, ("film", 0, 4), ("the", 5, 8), None, None)


def test_words_come_from_the_layer_in_the_model() -> None:
    layers = (kl.Embedding(20, 2), kl.Flatten())
    model = keras.Sequential([*layers])
    model.words = vectorizer()
    anatomy = Anatomy(model)
    anatomy.layers.append(("words", model.words))
    assert words_of(anatomy, np.array([[3, 2]])).document == "film the"
    assert words_of(anatomy, np.array([[3, 2]]), vocabulary=list("abcd")).document == "d c"


def test_words_may_be_given_one_by_one() -> None:
    words = of_ids(np.array([[5, 6, 9, 9]]), tokens=["un", "##seen", "it", ""])
    assert words.document == "un ##seen it"
    assert words.steps == (("un", 0, 2), ("##seen", 3, 9), ("it", 10, 12), None)
    assert of_ids(np.array([[5, 0]]), True, tokens=np.array(["a", "<pad>"])).document == "a"
    anatomy = anatomy_of(vectorizer(output_sequence_length=3))
    assert words_of(anatomy, "the film", tokens=["DAS", "BILD", ""]).steps == (
        ("DAS", 0, 3),
        ("BILD", 4, 8),
        None,
    )


def test_zeros_are_padding_where_they_are_masked_or_have_no_word() -> None:
    ids = np.array([[0, 4, 0, 5, 0]])
    assert of_ids(ids).document == "#0 #4 #0 #5 #0"
    assert of_ids(ids, mask_zero=True).document == "#4 #0 #5"
    assert of_ids(ids, vocabulary=VOCABULARY).document == "dont #0 good"
    assert of_ids(ids, True, vocabulary={4: "x", 5: "y", 0: "<pad>"}).document == "x <pad> y"
    assert of_ids(ids[:, 1:2], True, vocabulary={4: "x"}).document == "x"


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64, list])
def test_ids_are_whole_numbers_of_any_type(dtype: Any) -> None:
    ids = [[3, 2]] if dtype is list else np.array([[3, 2]], dtype)
    assert of_ids(ids, vocabulary=VOCABULARY).document == "film the"


@pytest.mark.parametrize(
    ("ids", "error", "told"),
    [
        (np.array([3, 2]), ValueError, r"shape \(1, steps\), got shape \(2,\); add the batch axis"),
        (np.array([[3], [2]]), ValueError, r"got shape \(2, 1\); .*doc\[:1\]"),
        (np.zeros((1, 2, 2)), ValueError, r"got shape \(1, 2, 2\)$"),
        (np.zeros((1, 0)), ValueError, "different lengths, or none; pad them"),
        ([[1, 2], [3]], ValueError, "different lengths, or none; pad them"),
        (np.array([[1.5, 2]]), ValueError, "whole numbers from 0, got 1.5"),
        (np.array([[np.nan, 2]]), ValueError, "whole numbers from 0, got nan"),
        (np.array([[2, -1]]), ValueError, "whole numbers from 0, got -1"),
        (np.array([[True]]), TypeError, "whole numbers, got dtype bool"),
        (np.array([[None]]), TypeError, "whole numbers, got dtype object"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_are_no_ids_is_refused(ids: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        of_ids(ids)


def test_a_ragged_tensor_is_refused() -> None:
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match="different lengths, or none; pad them"):
        of_ids(tf.ragged.constant([[1, 2], [3]]))


def test_nothing_but_padding_is_refused() -> None:
    for given in ({"mask_zero": True}, {"vocabulary": VOCABULARY}, {"tokens": ["", ""]}):
        with pytest.raises(DocError, match="no words: it is all padding"):
            of_ids(np.array([[0, 0]]), **given)


def test_a_vocabulary_has_a_word_for_each_id() -> None:
    with pytest.raises(
        ValueError, match=re.escape("none for 4, 5, 6, 7, 8, ...; its 4 words have the ids 0 to 3")
    ):
        of_ids(np.array([[3, *range(4, 10)]]), vocabulary=VOCABULARY[:4])
    with pytest.raises(ValueError, match=r"none for 0; .*; if 0 is padding, let its word be ''"):
        of_ids(np.array([[2, 0]]), vocabulary={1: "a", 2: "b"})


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [
        ({"the": 1}, "dict of words by ids, got one of ids by words; turn it around"),
        ({1: 2}, "words by ids, got 2 for 1"),
        ({1.5: "a"}, "words by ids, got 'a' for 1.5"),
        ([b"a"], "words by ids, got b'a' for 0"),
        ("words.txt", "must be a list of words, .* got str"),
    ],
)
def test_what_is_no_vocabulary_is_refused(vocabulary: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        of_ids(np.array([[1]]), vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("tokens", "error", "told"),
    [
        (["a"], ValueError, "one for each of 2 steps, and '' for padding; got 1"),
        ("ab", TypeError, "tokens must be a list of str, got str"),
        (["a", 1], TypeError, "list of str, got int in it"),
    ],
)
def test_what_are_no_tokens_is_refused(tokens: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        of_ids(np.array([[1, 2]]), tokens=tokens)


def test_words_are_given_in_one_way() -> None:
    with pytest.raises(ValueError, match=r"pass vocabulary, .*, or tokens"):
        of_ids(np.array([[1]]), vocabulary=["a", "b"], tokens=["a"])
    with pytest.raises(ValueError, match="vocabulary is for a doc of ids"):
        words_of(anatomy_of(vectorizer()), "the", vocabulary=["a"])
