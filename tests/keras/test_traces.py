"""What is compiled, when, and that it is never stale."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiny_models import CLASSES, MODELS, SIDE, Chain, Shift, backbone, head, make_doc, state_of

import kerasight
from kerasight.keras import traces
from kerasight.keras.record import record, record_batch
from kerasight.keras.traces import _MOST, WORTH_A_TRACE, traces_of

pytestmark = pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning")


class Counted(kl.Layer):
    """Counts how often its Python code runs: once in an eager pass, once in a trace."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        vars(self)["runs"] = Runs()

    def call(self, inputs: Any) -> Any:
        self.runs.number += 1
        return inputs


class Runs:
    __slots__ = ("__weakref__", "number")

    def __init__(self) -> None:
        self.number = 0


def counting(size: int | None = SIDE) -> tuple[keras.Model, Runs]:
    counted = Counted(name="counted")
    stack = [keras.Input((size, size, 3)), backbone(), counted, *head()]
    model = keras.Sequential(stack, name="counting")
    counted.runs.number = 0
    return model, counted.runs


def heatmap(model: keras.Model, **kwargs: Any) -> np.ndarray:
    doc = kwargs.pop("doc", None)
    expl = kerasight.explain_prediction(model, make_doc() if doc is None else doc, **kwargs)
    return expl.targets[0].heatmap


def warm_up(model: keras.Model, **kwargs: Any) -> None:
    """Explain until the pass is traced."""
    for _ in range(WORTH_A_TRACE + 1):
        heatmap(model, **kwargs)


def test_first_calls_are_eager_then_one_traces_and_later_ones_run_no_python() -> None:
    model, runs = counting()
    maps = []
    numbers = []
    for _ in range(WORTH_A_TRACE + 4):
        maps.append(heatmap(model))
        numbers.append(runs.number)
    assert numbers == [*range(1, WORTH_A_TRACE + 2), *[WORTH_A_TRACE + 1] * 3]
    for one in maps[1:]:
        np.testing.assert_allclose(one, maps[0], atol=1e-5)


def test_a_batch_counts_for_its_docs() -> None:
    model, runs = counting()
    docs = np.concatenate([make_doc(seed=seed) for seed in range(12)])
    list(kerasight.explain_predictions(model, docs, batch_size=4))
    assert runs.number == 3  # two eager batches, and a trace at the third
    list(kerasight.explain_predictions(model, docs, batch_size=4))
    assert runs.number == 3


def test_another_class_and_another_picture_need_no_new_trace() -> None:
    model, runs = counting()
    warm_up(model)
    before = runs.number
    for target in range(CLASSES):
        heatmap(model, targets=[target], doc=make_doc(seed=target))
    assert runs.number == before


def test_another_layer_has_its_own_trace() -> None:
    model, _ = counting()
    eager = heatmap(model, layer="conv"), heatmap(model, layer="mix")
    for _ in range(WORTH_A_TRACE + 2):
        np.testing.assert_allclose(heatmap(model, layer="conv"), eager[0], atol=1e-5)
        np.testing.assert_allclose(heatmap(model, layer="mix"), eager[1], atol=1e-5)
    assert eager[0].shape != eager[1].shape or not np.allclose(*eager)


def test_a_batch_of_any_size_shares_the_trace() -> None:
    model, runs = counting()
    warm_up(model)
    before = runs.number
    for number in (32, 7, 1):
        docs = np.concatenate([make_doc(seed=seed) for seed in range(number)])
        assert len(list(kerasight.explain_predictions(model, docs, batch_size=32))) == number
    assert runs.number == before


def test_all_sizes_of_a_dynamic_model_share_one_trace() -> None:
    model, runs = counting(None)
    # The layer is chosen anew for each size, but the trace is one.
    warm_up(model, layer="mix")
    before = runs.number
    for side in range(8, 30, 2):
        heatmap(model, layer="mix", doc=make_doc((1, side, side, 3)))
    assert runs.number == before


def test_the_number_of_traces_is_bounded() -> None:
    model = MODELS["subclassed, no training argument"]()
    for side in range(8, 8 + 2 * _MOST):
        docs = np.repeat(make_doc((1, side, side, 3)), WORTH_A_TRACE, axis=0)
        list(kerasight.explain_predictions(model, docs))
        heatmap(model, doc=docs[:1])
    known = traces_of(model)
    assert len(known._docs) <= _MOST
    assert len(known._chosen) <= _MOST
    assert len(known._traces) <= _MOST


def replace_kernel(model: keras.Model) -> None:
    """Another variable in the place of the kernel, as `enable_lora` and `quantize` put."""
    conv = model.get_layer("backbone").get_layer("conv")
    vars(conv)["_kernel"] = keras.Variable(np.flip(np.array(conv.kernel), axis=0))


def train(model: keras.Model) -> None:
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 10.0
    model.fit(make_doc(), np.array([1]), verbose=0)


def forget(model: keras.Model) -> None:
    traces._of_models.pop(id(model))


CHANGES: dict[str, Callable[[keras.Model], Any]] = {
    "the activation of the last layer": lambda m: setattr(
        m.get_layer("scores"), "activation", keras.activations.linear
    ),
    "the activation of a layer inside": lambda m: setattr(
        m.get_layer("backbone").get_layer("squash"), "activation", keras.activations.relu
    ),
    "new weights": lambda m: m.get_layer("backbone").set_weights(
        [-weight for weight in m.get_layer("backbone").get_weights()]
    ),
    "training": train,
    "another variable": replace_kernel,
    "an array that a layer adds": lambda m: setattr(
        m.get_layer("backbone").get_layer("seen"), "disturbance", np.float32(0.5)
    ),
    "a layer more": lambda m: m.add(kl.Dense(2, kernel_initializer="ones")),
    "a layer less": lambda m: m.pop(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_shows_in_the_next_explanation(change: str) -> None:
    model, _ = counting()
    warm_up(model, targets=[0])
    before = kerasight.explain_prediction(model, make_doc(), targets=[0])
    CHANGES[change](model)
    after = [
        kerasight.explain_prediction(model, make_doc(), targets=[0])
        for _ in range(WORTH_A_TRACE + 2)
    ]
    # Without traces there is nothing to be stale.
    forget(model)
    wanted = kerasight.explain_prediction(model, make_doc(), targets=[0])
    assert not np.isclose(before.targets[0].score, wanted.targets[0].score, atol=1e-6)
    for expl in after:
        assert expl.targets[0].score == pytest.approx(wanted.targets[0].score, abs=1e-5)
        np.testing.assert_allclose(expl.targets[0].heatmap, wanted.targets[0].heatmap, atol=1e-4)


def test_flipping_trainable_changes_nothing_but_is_seen() -> None:
    model, runs = counting()
    maps = [heatmap(model) for _ in range(WORTH_A_TRACE + 2)]
    model.trainable = False
    maps += [heatmap(model) for _ in range(WORTH_A_TRACE + 2)]
    assert runs.number == 2 * (WORTH_A_TRACE + 1)  # eager and traced, before and after
    for one in maps:
        np.testing.assert_allclose(one, maps[0], atol=1e-5)


def test_another_policy_shows_in_the_next_explanation() -> None:
    model, _ = counting()
    warm_up(model, targets=[0])
    before = record(model, make_doc(), [0])
    model.get_layer("mix").dtype_policy = keras.DTypePolicy("mixed_float16")
    after = record(model, make_doc(), [0])
    assert before.score != after.score
    assert before.score == pytest.approx(after.score, abs=1e-2)


def test_a_model_that_cannot_be_traced_is_explained_each_time() -> None:
    class Eager(Chain):
        def call(self, inputs: Any) -> Any:
            if float(keras.ops.convert_to_numpy(inputs).mean()) > 100:
                return super().call(inputs * 0)
            return super().call(inputs)

    model = Eager([backbone(), *head()], name="eager")
    maps = [heatmap(model) for _ in range(WORTH_A_TRACE + 2)]
    for one in maps[1:]:
        np.testing.assert_array_equal(one, maps[0])


@pytest.mark.parametrize("name", list(MODELS))
def test_compiled_and_eager_agree_and_leave_the_model_alone(name: str) -> None:
    from tiny_models import doc_for

    model, doc = MODELS[name](), doc_for(name)
    eager = record(model, doc, [0])
    for _ in range(WORTH_A_TRACE):
        record(model, doc, [0])
    before = state_of(model)
    for _ in range(2):
        compiled = record(model, doc, [0])
        assert compiled.layer is eager.layer
        np.testing.assert_allclose(compiled.gradients, eager.gradients, atol=1e-6)
        np.testing.assert_allclose(compiled.activations, eager.activations, atol=1e-5)
        np.testing.assert_allclose(compiled.scores, eager.scores, atol=1e-6)
    assert state_of(model) == before


def test_several_classes_compiled_are_those_of_one_by_one() -> None:
    model, _runs = counting()
    targets = np.array([[2, 0, 1, 0]])
    eager = record_batch(model, make_doc(), targets)[0]
    compiled = record_batch(model, make_doc(), targets)[0]
    for target, one, other in zip([2, 0, 1, 0], eager, compiled, strict=True):
        alone = record(model, make_doc(), [target])
        assert one.target == other.target == target
        np.testing.assert_allclose(one.gradients, alone.gradients, atol=1e-7)
        np.testing.assert_allclose(other.gradients, alone.gradients, atol=1e-7)


def test_eight_threads_share_a_trace_and_get_their_own_answers() -> None:
    model, runs = counting()
    docs = [make_doc(seed=seed) for seed in range(8)]
    alone, _ = counting()
    alone.set_weights(model.get_weights())
    wanted = [record(alone, doc, [1]) for doc in docs]
    barrier, answers, failures = threading.Barrier(8), {}, []

    def explain(number: int) -> None:
        try:
            barrier.wait(60)
            answers[number] = [record(model, docs[number], [1]) for _ in range(10)]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=explain, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number, found in answers.items():
        for one in found:
            np.testing.assert_allclose(one.gradients, wanted[number].gradients, atol=1e-6)
            np.testing.assert_allclose(one.scores, wanted[number].scores, atol=1e-6)
    # Of 80 passes, eager were those up to the trace, and what the other threads were at then.
    assert runs.number <= WORTH_A_TRACE + 8 + 1
    assert "call" not in vars(model.get_layer("counted"))


def test_a_model_that_was_explained_can_be_forgotten() -> None:
    model, _ = counting()
    warm_up(model)
    warm_up(model, layer="conv")
    number = id(model)
    references = [weakref.ref(model), weakref.ref(model.get_layer("backbone"))]
    del model
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert number not in traces._of_models


def test_the_models_own_compiled_functions_are_left_alone() -> None:
    model, _ = counting()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.predict(make_doc(), verbose=0)
    before = model.predict_function
    warm_up(model)
    assert model.predict_function is before


def test_what_a_model_does_to_itself_as_it_runs_does_not_last() -> None:
    class Restless(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="restless")
            self.body = backbone()
            self.norm = kl.BatchNormalization(name="norm")
            self.drop = kl.Dropout(0.5, seed=1)
            self.rest = Chain(head(), name="rest")

        def call(self, inputs: Any) -> Any:
            x = self.norm(self.body(inputs), training=True)
            return self.rest(self.drop(x, training=True))

    model = Restless()
    model(make_doc())
    variables = [np.array(variable) for variable in model.variables]
    seed = np.array(model.drop.seed_generator.state)
    maps = [heatmap(model, targets=[0]) for _ in range(WORTH_A_TRACE + 2)]
    for before, after in zip(variables, model.variables, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.drop.seed_generator.state, seed)
    np.testing.assert_allclose(maps[-1], maps[0], atol=1e-5)


def test_losses_of_a_traced_pass_are_not_left_behind() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            kl.Conv2D(2, 3, activity_regularizer="l2", name="conv"),
            Shift(),
            *head(),
        ]
    )
    for _ in range(WORTH_A_TRACE + 2):
        heatmap(model)
        assert np.isfinite([float(loss) for loss in model.losses]).all()
    model(make_doc())
    assert len(model.losses) == 1
