from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import torch
from keras import layers as kl
from tiny_models import MODELS, Chain, backbone, head, make_doc, scores_of, state_of

import kerasight
from kerasight.cam.inputs import Inputs
from kerasight.keras import backends
from kerasight.keras.anatomy import Anatomy
from kerasight.keras.record import record, scorer
from kerasight.keras.record import scores_of as scores_of_many
from kerasight.keras.sites import find_site
from kerasight.keras.traces import WORTH_A_TRACE

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch", reason=f"Keras runs on {keras.config.backend()}"
)

OFTEN = WORTH_A_TRACE + 2


def wrapped() -> keras.Model:
    """A module of PyTorch's, which trains and keeps statistics, between layers of Keras's."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)
    )
    stack = [kl.TorchModuleWrapper(module, name="module"), *head()]
    return Chain([kl.Permute((3, 1, 2)), stack[0], kl.Permute((2, 3, 1)), *stack[1:]], name="w")


@pytest.mark.parametrize("make", [MODELS["functional"], wrapped])
def test_gradients_and_modes_stay_as_they_were(make: Any) -> None:
    model = make()
    loss = model(make_doc(), training=True).sum()
    loss.backward()
    before = [
        (one.value, one.value.grad, one.value.grad.clone()) for one in model.trainable_weights
    ]
    assert before
    modules = [one for layer in model._flatten_layers() for one in layer.modules()]
    modes = [number % 3 == 0 for number in range(len(modules))]
    for one, mode in zip(modules, modes, strict=True):
        vars(one)["training"] = mode
    buffers = [buffer.clone() for one in modules for buffer in one.buffers()]
    for _ in range(OFTEN):
        kerasight.explain_prediction(model, make_doc())
        list(kerasight.explain_predictions(model, np.repeat(make_doc(), 6, axis=0), logits=True))
    for parameter, gradient, values in before:
        assert parameter.grad is gradient
        assert parameter.requires_grad
        assert bool((gradient == values).all())
    assert [one.training for one in modules] == modes
    assert torch.is_grad_enabled()
    after = [buffer for one in modules for buffer in one.buffers()]
    assert all(bool((one == was).all()) for one, was in zip(after, buffers, strict=True))


def test_after_an_exception_all_is_as_it_was() -> None:
    class Raising(kl.Layer):
        def call(self, inputs: Any) -> Any:
            raise OSError("of the model")

    model = Chain([backbone(), Raising()], name="raising")
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            model.train()
            with pytest.raises(OSError, match="of the model"):
                kerasight.explain_prediction(model, make_doc())
            assert torch.is_grad_enabled() == enabled
            assert not torch.is_inference_mode_enabled()
            assert model.training


@pytest.mark.parametrize("block", ["no_grad", "inference_mode", "enable_grad"])
@pytest.mark.parametrize("name", ["functional", "sequential, never called", "one sigmoid unit"])
@pytest.mark.parametrize("method", ["grad-cam", "layercam", "ablation-cam", "score-cam"])
def test_the_users_grad_mode_does_not_matter(block: str, name: str, method: str) -> None:
    model, doc = MODELS[name](), make_doc()
    model(doc)
    expected = kerasight.explain_prediction(model, doc, method=method, logits=True)
    with getattr(torch, block)():
        made_there = MODELS[name]()
        made_there(doc)
        made_there.set_weights(model.get_weights())
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for one in (model, made_there):
            for _ in range(OFTEN):
                found = kerasight.explain_prediction(one, doc, method=method, logits=True)
                np.testing.assert_allclose(
                    found.targets[0].heatmap, expected.targets[0].heatmap, atol=1e-5
                )
        stream = kerasight.explain_predictions(made_there, np.repeat(doc, 6, axis=0))
        assert all(one.layer == expected.layer for one in stream)
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


@pytest.mark.parametrize("layer", ["conv", "conv:input", "seen"])
def test_in_inference_mode_any_layer_is_explained(layer: str) -> None:
    model = Chain([backbone(), *head()], name="chain")
    model(make_doc())
    site = find_site(Anatomy(model), f"backbone/{layer}")
    expected = record(model, make_doc(), [0], site)
    with torch.inference_mode():
        found = record(model, make_doc(), [0], site)
    np.testing.assert_allclose(found.gradients, expected.gradients, atol=1e-6)


def test_a_model_first_called_in_inference_mode_can_be_trained_afterwards() -> None:
    model = MODELS["sequential, never called"]()
    with torch.inference_mode():
        kerasight.explain_prediction(model, make_doc())
    model(make_doc(), training=True).sum().backward()
    assert all(one.value.grad is not None for one in model.trainable_weights)


@pytest.mark.parametrize("layer", ["squash", "conv"])
def test_inside_of_a_block_that_records_nothing_a_layer_is_explained(layer: str) -> None:
    class Frozen(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="frozen")
            self.body, self.rest = backbone(), Chain(head(), name="rest")

        def call(self, inputs: Any) -> Any:
            with torch.no_grad():
                features = self.body(inputs)
            return self.rest(features)

    model = Frozen()
    model(make_doc())
    plain = Chain([model.body, model.rest], name="plain")
    expected = record(plain, make_doc(), [0], model.body.get_layer(layer))
    for _ in range(OFTEN):
        found = record(model, make_doc(), [0], model.body.get_layer(layer))
        np.testing.assert_allclose(found.gradients, expected.gradients, atol=1e-6)


@pytest.mark.parametrize("cut", [lambda x: x.detach(), keras.ops.zeros_like])
def test_a_layer_that_the_score_does_not_depend_on_is_told(cut: Any) -> None:
    class Cut(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return cut(inputs)

    body = backbone()
    model = Chain([body, Cut(), *head()], name="cut")
    for _ in range(2):
        with pytest.raises(ValueError, match="no gradient to the score"):
            record(model, make_doc(), None, body.get_layer("squash"))


def test_before_the_site_nothing_is_recorded() -> None:
    seen: list[bool] = []

    class Asks(kl.Layer):
        def call(self, inputs: Any) -> Any:
            seen.append(inputs.requires_grad)
            return inputs

    stack = [kl.Conv2D(4, 3), Asks(), kl.Conv2D(4, 3, name="site"), Asks(), *head()]
    model = Chain(stack, name="asking")
    model(make_doc())
    seen.clear()
    for _ in range(OFTEN):
        record(model, make_doc(), None, stack[2])
    assert seen == [False, True] * OFTEN
    seen.clear()
    scores_of_many(model, make_doc())
    scorer(model, Inputs(make_doc()))(Inputs(make_doc()))
    assert not any(seen)


def test_a_module_of_torch_is_explained_as_in_evaluation() -> None:
    model, doc = wrapped(), make_doc()
    model(doc)
    model.stack[1].module.eval()  # which some versions of Keras do not
    expected = scores_of(model, doc)
    model.stack[1].module.train()
    for _ in range(OFTEN):
        found = record(model, doc, [0], model.stack[1])
        np.testing.assert_allclose(found.scores, expected, atol=1e-6)
        assert np.abs(found.gradients).max() > 0


def test_a_function_of_torch_in_a_layer_is_explained() -> None:
    class Wavy(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return torch.sin(inputs)

    model = Chain([kl.Conv2D(1, 1, use_bias=False), Wavy(), kl.GlobalAveragePooling2D()], name="w")
    doc = make_doc()
    model(doc)
    convolved = keras.ops.convert_to_numpy(model.stack[0](doc))[0]
    for _ in range(OFTEN):
        found = record(model, doc, [0], model.stack[0])
        np.testing.assert_allclose(found.gradients, np.cos(convolved) / 64, atol=1e-6)


def test_what_torch_compiles_is_run_as_it_was_written() -> None:
    class Compiled(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="compiled")
            self.body, self.rest = backbone(), Chain(head(), name="rest")
            self.compiled = torch.compile(self.body.call, backend=self.refuse)

        def refuse(self, *_: Any) -> Any:
            raise AssertionError("compiled")

        def call(self, inputs: Any) -> Any:
            return self.rest(self.compiled(inputs))

    model = Compiled()
    for layer in ("conv", "squash"):
        assert record(model, make_doc(), [0], model.body.get_layer(layer)).gradients.any()


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: x @ torch.zeros(7, 7), "cannot be multiplied"),
        (lambda x: x.reshape(1, 4, 4, 13), "is invalid for input"),
        (lambda x: x + torch.zeros(1, 9, 1, 1), "must match the size"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_model(operation: Any, message: str) -> None:
    class Unfit(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return operation(inputs)

    model = Chain([Unfit(), backbone(), *head()], name="chain")
    with pytest.raises(ValueError, match=f"(?s)'chain' cannot be run on a doc of this.*{message}"):
        record(model, make_doc())


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_where_memory_runs_out_it_is_said(error: Any) -> None:
    class Greedy(kl.Layer):
        def call(self, inputs: Any) -> Any:
            raise error()

    with pytest.raises(MemoryError, match=r"'chain' ran; pass a smaller batch_size"):
        record(Chain([Greedy(), backbone(), *head()], name="chain"), make_doc())


def test_an_error_of_the_models_own_stays_what_it_is() -> None:
    class Raising(kl.Layer):
        def call(self, inputs: Any) -> Any:
            raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model"):
        record(Chain([Raising(), backbone(), *head()], name="chain"), make_doc())


def test_nothing_is_compiled_and_nothing_said_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotImplementedError):
        backends.current().compiled(lambda x: x, [((1,), "float32")])
    model = MODELS["functional"]()
    before = state_of(model)
    with caplog.at_level(logging.DEBUG, "kerasight"):
        for _ in range(3 * WORTH_A_TRACE):
            kerasight.explain_prediction(model, make_doc())
        list(kerasight.explain_predictions(model, np.repeat(make_doc(), 12, axis=0), batch_size=6))
    assert not caplog.records
    assert state_of(model) == before


def test_while_shapes_are_inferred_nothing_is_explained() -> None:
    model = MODELS["functional"]()
    with keras.device("meta"), pytest.raises(RuntimeError, match="explanations are run eagerly"):
        kerasight.explain_prediction(model, make_doc())


def test_a_probability_made_in_place_is_no_logit() -> None:
    class Ending(kl.Layer):
        def call(self, inputs: Any) -> Any:
            return torch.matmul(inputs, torch.eye(3)).sigmoid_()

    model = Chain([backbone(), *head(None), Ending()], name="in_place")
    with pytest.raises(ValueError, match="logits of model 'in_place' cannot be found"):
        scores_of_many(model, make_doc(), logits=True)


def test_many_docs_that_no_call_came_before_are_watched_at_one_layer(monkeypatch: Any) -> None:
    watched: list[int] = []
    linearise = backends.current().linearise

    def noting(function: Any) -> Any:
        linear = linearise(function)
        watched.append(sum(one is not None for one in linear.sources))
        return linear

    monkeypatch.setattr(backends.current(), "linearise", noting)
    model = Chain([kl.Conv2D(3, 3, name="first"), backbone(), *head()], name="chain")
    model(make_doc())
    docs = np.concatenate([make_doc(seed=seed) for seed in range(12)])
    list(kerasight.explain_predictions(model, docs, batch_size=6))
    assert watched[0] > 1
    assert set(watched[1:]) == {1}


# While a model trains


class Trained(keras.Model):
    """A model that gathers statistics, and draws random numbers, as it trains."""

    def __init__(self) -> None:
        super().__init__(name="trained")
        self.body, self.norm = backbone(), kl.BatchNormalization()
        self.drop, self.rest = kl.Dropout(0.5, seed=3), Chain(head(), name="rest")

    def call(self, inputs: Any, training: bool = False) -> Any:
        x = self.norm(self.body(inputs), training=training)
        return self.rest(self.drop(x, training=training))


@pytest.mark.parametrize("when", ["on_epoch_end", "on_train_batch_end"])
def test_in_a_callback_the_weights_of_then_are_explained_and_training_goes_on(when: str) -> None:
    found: list[tuple[float, float]] = []

    def explains(_: int, logs: Any = None) -> None:
        gradients = [one.value.grad for one in model.trainable_variables]
        modes = [one.training for layer in model._flatten_layers() for one in layer.modules()]
        (explained,) = kerasight.explain_predictions(model, make_doc(), targets=[0], relu=False)
        found.append((explained.targets[0].score, float(scores_of(model, make_doc())[0])))
        after = [one.value.grad for one in model.trainable_variables]
        assert all(one is was for one, was in zip(after, gradients, strict=True))
        assert gradients[0] is not None
        assert modes == [
            one.training for layer in model._flatten_layers() for one in layer.modules()
        ]

    docs, labels = (
        np.concatenate([make_doc(seed=seed) for seed in range(4)]),
        np.array([0, 1, 2, 0]),
    )
    weights = []
    for callbacks in ([], [keras.callbacks.LambdaCallback(**{when: explains})]):
        keras.utils.set_random_seed(0)
        model = Trained()
        model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        model.fit(docs, labels, batch_size=2, epochs=4, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for score, expected in found:
        assert score == pytest.approx(expected, abs=1e-6)
    often = 4 if when == "on_epoch_end" else 8
    assert len({round(score, 4) for score, _ in found}) == often


# What is computed otherwise than it is written


def test_a_quantised_model_is_explained() -> None:
    model = MODELS["functional"]()
    model.quantize("int8")
    before = state_of(model)
    for _ in range(OFTEN):
        found = record(model, make_doc(), [0], model.get_layer("deeper"))
        np.testing.assert_allclose(found.scores, scores_of(model, make_doc()), atol=1e-6)
        assert found.gradients.any()
    assert kerasight.explain_prediction(model, make_doc(), logits=True).targets[0].heatmap.any()
    assert state_of(model) == before


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="of later versions of Keras")
@pytest.mark.parametrize("layer", ["conv", "squash", "mix"])
def test_a_rematerialised_model_is_explained_as_a_plain_one_and_trains_on(layer: str) -> None:
    def made() -> keras.Model:
        return Chain([*backbone().layers[1:], *head()], name="chain")

    with keras.RematScope(mode="full"):
        model = made()
        model(make_doc())
    plain = made()
    plain(make_doc())
    plain.set_weights(model.get_weights())
    at = (
        {one.name: one for one in model.stack}[layer],
        {one.name: one for one in plain.stack}[layer],
    )
    for _ in range(OFTEN):
        found, expected = (
            record(one, make_doc(), [0], site) for one, site in zip((model, plain), at, strict=True)
        )
        np.testing.assert_allclose(found.gradients, expected.gradients, atol=1e-6)
        np.testing.assert_allclose(found.activations, expected.activations, atol=1e-6)
    for one in (model, plain):
        one(make_doc(), training=True)[0, 0].backward()
    for one, other in zip(model.trainable_variables, plain.trainable_variables, strict=True):
        torch.testing.assert_close(one.value.grad, other.value.grad)


class Checkpointed(keras.Model):
    """A model that runs a layer through a function of the user's."""

    def __init__(self, through: Any) -> None:
        super().__init__(name="checkpointed")
        self.body, self.rest, self.through = backbone(), Chain(head(), name="rest"), through

    def call(self, inputs: Any) -> Any:
        return self.rest(self.through(self.body, inputs))


def checkpoint(layer: Any, inputs: Any, is_reentrant: bool = False) -> Any:
    return torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=is_reentrant)


def remat(layer: Any, inputs: Any) -> Any:
    if not hasattr(keras, "remat"):
        pytest.skip("of later versions of Keras")
    return keras.remat(layer)(inputs)


@pytest.mark.parametrize("through", [checkpoint, remat])
@pytest.mark.parametrize("layer", ["conv", "squash"])
def test_a_layer_inside_of_a_checkpoint_is_explained(layer: str, through: Any) -> None:
    model, plain = Checkpointed(through), Checkpointed(lambda layer, inputs: layer(inputs))
    for one in (model, plain):
        one(make_doc())
    plain.set_weights(model.get_weights())
    for _ in range(OFTEN):
        found = record(model, make_doc(), [0], model.body.get_layer(layer))
        expected = record(plain, make_doc(), [0], plain.body.get_layer(layer))
        np.testing.assert_allclose(found.gradients, expected.gradients, atol=1e-6)


def test_a_layer_inside_of_a_reentrant_checkpoint_is_said_to_have_no_gradient() -> None:
    model = Checkpointed(lambda layer, inputs: checkpoint(layer, inputs, is_reentrant=True))
    model(make_doc())
    with pytest.raises(ValueError, match="'backbone/squash' has no gradient to the score"):
        record(model, make_doc(), [0], model.body.get_layer("squash"))
    assert record(model, make_doc(), [0]).gradients.any()
