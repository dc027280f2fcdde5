from __future__ import annotations

import linecache
import sys
import threading
from typing import Any

import keras
import numpy as np
import pytest
from frameworks import tf
from tiny_models import make_doc, scores_of

from kerasight.keras import tap
from kerasight.keras.layers import children, walk
from kerasight.keras.tap import _wrapped, tapped, untapped_attributes


def pass_on(layer: Any, output: Any) -> Any:
    return output


def test_each_call_passes_through_see_in_the_order_of_the_run(model: keras.Model) -> None:
    seen = []

    def see(layer: Any, output: Any) -> Any:
        seen.append(layer.name)
        return output

    with tapped([model], see, children):
        model(make_doc())
    assert seen == ["conv", "seen", "deeper", "add", "mix", "pool", "scores", "functional"]


def test_what_see_returns_goes_on_in_the_place_of_the_output(model: keras.Model) -> None:
    layer = model.get_layer("pool")
    plain = scores_of(model, make_doc())
    with tapped([layer], lambda _, output: output * 0):
        silenced = scores_of(model, make_doc())
    bias = model.get_layer("scores").get_weights()[1]
    np.testing.assert_allclose(silenced, np.exp(bias) / np.exp(bias).sum(), rtol=1e-6)
    assert not np.allclose(plain, silenced)
    np.testing.assert_array_equal(scores_of(model, make_doc()), plain)


def test_the_wrapper_is_gone_afterwards_also_after_an_exception(model: keras.Model) -> None:
    layer = model.get_layer("conv")

    def see(layer: Any, output: Any) -> Any:
        raise RuntimeError("on purpose")

    def run() -> None:
        with tapped([model], see, children):
            assert "call" in vars(model)
            model(make_doc())

    with pytest.raises(RuntimeError, match="on purpose"):
        run()
    assert "call" not in vars(model)
    assert "call" not in vars(layer)
    assert not _wrapped


def test_a_call_of_the_users_own_on_the_instance_is_kept(model: keras.Model) -> None:
    layer = model.get_layer("seen")
    own = layer.call
    object.__setattr__(layer, "call", own)
    seen = []
    with tapped([layer], lambda one, output: seen.append(one) or output):
        model(make_doc())
    assert vars(layer)["call"] is own
    assert seen == [layer]


def test_nested_taps_are_each_their_own(model: keras.Model) -> None:
    layer = model.get_layer("conv")
    outer: list[str] = []
    inner: list[str] = []
    with tapped([layer], lambda one, output: outer.append(one.name) or output):
        with tapped([layer], lambda one, output: inner.append(one.name) or output):
            model(make_doc())
        model(make_doc())
    assert outer == ["conv"]
    assert inner == ["conv"]
    assert "call" not in vars(layer)


def test_other_threads_are_neither_recorded_nor_disturbed(model: keras.Model) -> None:
    doc, layer = make_doc(), model.get_layer("conv")
    plain = keras.ops.convert_to_numpy(model(doc))
    seen: list[int] = []
    others: list[np.ndarray] = []

    def see(_: Any, output: Any) -> Any:
        seen.append(threading.get_ident())
        # In the middle of our pass, while the tap is on, another thread runs the same model.
        thread = threading.Thread(
            target=lambda: others.append(keras.ops.convert_to_numpy(model(doc)))
        )
        thread.start()
        thread.join()
        return output * 0

    with tapped([layer], see):
        ours = keras.ops.convert_to_numpy(model(doc))
    assert seen == [threading.get_ident()]
    np.testing.assert_array_equal(others[0], plain)
    assert not np.allclose(ours, plain)


def test_a_tap_that_ends_leaves_that_of_another_thread_on(model: keras.Model) -> None:
    doc, layer = make_doc(), model.get_layer("conv")
    seen: list[str] = []
    on, over = threading.Event(), threading.Event()

    def other() -> None:
        with tapped([layer], lambda _, output: seen.append("other") or output):
            on.set()
            over.wait(30)
            model(doc)

    thread = threading.Thread(target=other)
    with tapped([layer], lambda _, output: seen.append("ours") or output):
        thread.start()
        on.wait(30)
    over.set()
    thread.join()
    assert seen == ["other"]
    assert "call" not in vars(layer)


def test_a_model_can_be_walked_while_another_thread_taps_it(model: keras.Model) -> None:
    everything = [layer for _, layer in walk(model)]
    over = threading.Event()

    def tap_and_untap() -> None:
        while not over.is_set():
            with tapped(everything, lambda _, output: output):
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=tap_and_untap)
    thread.start()
    try:
        for _ in range(300):
            assert [layer for _, layer in walk(model)] == everything
            for layer in everything:
                untapped_attributes(layer)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not _wrapped


def test_a_call_under_tf_function_is_seen() -> None:
    class Compiled(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="compiled")
            self.conv = keras.layers.Conv2D(2, 3, name="conv")

        @tf.function
        def call(self, inputs: Any) -> Any:
            return self.conv(inputs)

    layer = Compiled()
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, keras.layers.Flatten()])
    plain = keras.ops.convert_to_numpy(model(make_doc()))  # traced now, before any tap
    seen = []
    with tapped([model], lambda one, output: seen.append(one.name) or output, children):
        tapped_output = keras.ops.convert_to_numpy(model(make_doc()))
    assert seen[:2] == ["conv", "compiled"]
    np.testing.assert_allclose(tapped_output, plain, atol=1e-6)


@pytest.mark.parametrize("nth", range(1, 40))
def test_ctrl_c_at_any_line_of_the_tap_leaves_no_wrapper(nth: int) -> None:
    """An interrupt at the nth line that runs in `tap` as it is put on and taken off."""
    layers = [keras.layers.Activation("relu"), keras.layers.Activation("tanh")]
    lines = 0

    def interrupt(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != tap.__file__:
            return None
        # At its "with" a lock is neither taken nor given back yet; no signal comes there.
        if event != "line" or "with _lock" in linecache.getline(tap.__file__, frame.f_lineno):
            return interrupt
        lines += 1
        if lines == nth:
            lines += 1
            raise KeyboardInterrupt
        return interrupt

    before = sys.gettrace()  # that of coverage
    sys.settrace(interrupt)
    try:
        with tapped(layers, lambda _, output: output):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert lines > nth, "fewer lines: none was interrupted"
    assert not _wrapped
    assert not any("call" in vars(layer) for layer in layers)
    with tapped(layers, lambda _, output: output):
        assert all("call" in vars(layer) for layer in layers)


# Activation functions


def test_what_goes_into_an_activation_and_comes_out_is_told() -> None:
    layer = keras.layers.Dense(2, activation="softmax")
    inputs = make_doc((3, 4))
    layer(inputs)
    told: list[Any] = []
    with tapped([], pass_on, ends=[layer], activated=lambda *both: told.append(both)):
        output = layer(inputs)
    ((given, made),) = told
    kernel, bias = layer.get_weights()
    given = keras.ops.convert_to_numpy(given)
    np.testing.assert_allclose(given, inputs @ kernel + bias, atol=1e-6)
    assert made is output
    assert layer.activation is keras.activations.softmax


def test_of_a_layer_that_is_an_activation_its_input_and_output_are_told() -> None:
    layer = keras.layers.Softmax()
    told: list[Any] = []
    with tapped([], pass_on, ends=[layer], activated=lambda *both: told.append(both)):
        output = layer(tf.constant([[1.0, 2.0]]))
    ((given, made),) = told
    np.testing.assert_array_equal(given, [[1, 2]])
    assert made is output


def test_an_activation_is_put_back_after_an_exception() -> None:
    layer = keras.layers.Dense(2, activation="softmax")
    own = vars(layer).copy()

    def fail(given: Any, output: Any) -> None:
        assert layer.activation is not keras.activations.softmax
        raise RuntimeError("on purpose")

    with (
        pytest.raises(RuntimeError, match="on purpose"),
        tapped([], pass_on, ends=[layer], activated=fail),
    ):
        layer(make_doc((1, 4)))
    assert layer.activation is keras.activations.softmax
    assert own.keys() <= vars(layer).keys()
    assert not _wrapped


def test_an_activation_is_told_of_in_its_own_thread_and_put_back_after_the_last() -> None:
    layer = keras.layers.Dense(2, activation="softmax")
    layer(make_doc((1, 4)))
    told: list[str] = []
    on, over = threading.Event(), threading.Event()

    def other() -> None:
        with tapped([], pass_on, ends=[layer], activated=lambda *_: told.append("other")):
            on.set()
            over.wait(30)
            layer(make_doc((1, 4)))

    thread = threading.Thread(target=other)
    with tapped([], pass_on, ends=[layer], activated=lambda *_: told.append("ours")):
        thread.start()
        on.wait(30)
        layer(make_doc((1, 4)))
    assert told == ["ours"]
    assert layer.activation is not keras.activations.softmax  # the other one's is still on
    over.set()
    thread.join()
    assert told == ["ours", "other"]
    assert layer.activation is keras.activations.softmax
    assert not _wrapped
