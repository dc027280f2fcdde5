"""Small transformers of each kind that people have, after those of KerasHub and of keras.io."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

WIDTH = 8
CLASSES = 3


class Prefix(layers.Layer):
    """Puts learnt tokens of no place before the others, and adds positions."""

    def __init__(self, number: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def build(self, shape: Any) -> None:
        if self.number:
            self.first = self.add_weight(shape=(1, self.number, shape[-1]), name="first")
        self.positions = self.add_weight(
            shape=(1, shape[1] + self.number, shape[-1]), initializer="normal", name="positions"
        )

    def call(self, x: Any) -> Any:
        if self.number:
            first = ops.broadcast_to(self.first, (ops.shape(x)[0], *self.first.shape[1:]))
            x = ops.concatenate([first, x], axis=1)
        return x + self.positions


class Cut(layers.Layer):
    """Cuts a picture into patches by operations alone, without a map in between."""

    def __init__(self, patch_size: int, tells: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = patch_size
        if tells:
            self.patch_size = patch_size

    def call(self, x: Any) -> Any:
        height, width, channels = x.shape[1:]
        rows, columns = height // self.side, width // self.side
        x = x[:, : rows * self.side, : columns * self.side]
        x = ops.reshape(x, (-1, rows, self.side, columns, self.side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * columns, self.side * self.side * channels))


class Block(layers.Layer):
    """A block of a transformer, as KerasHub's: its weights in layers, its sums in operations."""

    def __init__(self, tells_scores: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tells_scores = tells_scores
        self.before = layers.LayerNormalization(name="before")
        self.between = layers.LayerNormalization(name="between")
        self.attention = layers.MultiHeadAttention(2, WIDTH // 2, name="attention")
        self.hidden, self.out = layers.Dense(2 * WIDTH, activation="gelu"), layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        y = self.before(x)
        x = x + self.attention(y, y)
        x = x + self.out(self.hidden(self.between(x)))
        return (x, None) if self.tells_scores else x


class SpelledOut(layers.Layer):
    """Attention of two heads in operations, with layers for queries, keys and values."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query, self.key, self.value, self.out = (layers.Dense(WIDTH) for _ in range(4))

    def call(self, x: Any) -> Any:
        tokens = x.shape[1]
        q, k, v = (
            ops.transpose(ops.reshape(one(x), (-1, tokens, 2, WIDTH // 2)), (0, 2, 1, 3))
            for one in (self.query, self.key, self.value)
        )
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        mixed = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, tokens, WIDTH)))


class Encoder(layers.Layer):
    """Two blocks that put out scores of attention as well, as KerasHub's DeiT has them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [Block(True, name=f"block_{number}") for number in range(2)]

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x, _ = block(x)
        return x


def patches(side: int = 4) -> layers.Layer:
    return layers.Conv2D(WIDTH, side, strides=side, name="patches")


def scores(x: Any) -> Any:
    return layers.Dense(CLASSES, name="scores")(x)


def vit(
    prefix: int = 1,
    *,
    picture: tuple[int, int] = (16, 16),
    head: str = "token",
    tells_scores: bool = False,
    cut: str = "conv",
    dtype: str | None = None,
) -> keras.Model:
    """A vision transformer of two blocks.

    Args:
        prefix: How many tokens of no place it has.
        picture: Its height and width; patches are of 4 x 4.
        head: Whether it is read at its first token, or at the mean of all.
        tells_scores: Whether its blocks put out scores of attention as well.
        cut: What cuts patches: a convolution, operations, or operations of a layer that tells how.
        dtype: Of all layers.
    """
    inputs = keras.Input((*picture, 3), dtype=dtype)
    if cut == "conv":
        x = layers.Reshape((-1, WIDTH), name="row")(patches()(inputs))
        x = layers.Reshape(((picture[0] // 4) * (picture[1] // 4), WIDTH))(x)
    else:
        x = layers.Dense(WIDTH)(Cut(4, tells=cut == "told")(inputs))
    x = Prefix(prefix, name="prefix")(x)
    if tells_scores:
        x = Encoder(name="encoder")(x)
    else:
        x = Block(name="block_1")(Block(name="block_0")(x))
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if head == "token" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, scores(x), name="vit")


def spelled_out() -> keras.Model:
    """A class token, and attention of one's own in operations."""
    inputs = keras.Input((16, 16, 3))
    x = Prefix(name="prefix")(layers.Reshape((16, WIDTH))(patches()(inputs)))
    for number in range(2):
        y = layers.LayerNormalization(name=f"norm_{number}")(x)
        x = layers.Add(name=f"add_{number}")([x, SpelledOut(name=f"attention_{number}")(y)])
    return keras.Model(inputs, scores(x[:, 0]), name="spelled_out")


def siglip() -> keras.Model:
    """No token of no place: a learnt probe asks all others."""

    class Probe(layers.Layer):
        def build(self, shape: Any) -> None:
            self.probe = self.add_weight(shape=(1, 1, WIDTH), initializer="normal", name="probe")
            self.attention = layers.MultiHeadAttention(2, WIDTH // 2)
            self.attention.build((None, 1, WIDTH), shape)

        def call(self, x: Any) -> Any:
            probe = ops.broadcast_to(self.probe, (ops.shape(x)[0], 1, WIDTH))
            return self.attention(probe, x)[:, 0]

    inputs = keras.Input((16, 16, 3))
    x = Prefix(0)(layers.Reshape((16, WIDTH))(patches()(inputs)))
    x = layers.LayerNormalization(name="norm")(Block(name="block")(x))
    return keras.Model(inputs, scores(Probe()(x)), name="siglip")


def swin() -> keras.Model:
    """Two stages; the second has a quarter of the tokens of the first, twice as wide."""

    class Merge(layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.reduce = layers.Dense(WIDTH)

        def call(self, x: Any) -> Any:
            x = ops.reshape(x, (-1, 4, 2, 4, 2, WIDTH))
            x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, 4 * WIDTH))
            return self.reduce(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((64, WIDTH))(patches()(inputs))
    x = Block(name="first")(x)
    x = Block(name="second")(Merge(name="merge")(x))
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, scores(layers.GlobalAveragePooling1D()(x)), name="swin")


def mit() -> keras.Model:
    """Tokens that go back into a map after each stage, as in SegFormer's encoder."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, WIDTH))(patches()(inputs))
    x = layers.LayerNormalization()(Block(name="block")(x))
    x = layers.Reshape((4, 4, WIDTH), name="map")(x)
    return keras.Model(inputs, scores(layers.GlobalAveragePooling2D()(x)), name="mit")


def hybrid() -> keras.Model:
    """Convolutions first, and then a transformer on their map, a cell a token."""
    inputs = keras.Input((16, 24, 3))
    x = layers.Conv2D(WIDTH, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(WIDTH, 3, strides=2, padding="same", name="last_map")(x)
    x = Prefix()(layers.Reshape((24, WIDTH))(x))
    x = layers.LayerNormalization(name="norm")(Block(name="block")(x))
    return keras.Model(inputs, scores(x[:, 0]), name="hybrid")


# The model, where it is looked at if nothing is asked for, and the grid of its tokens there.
TRANSFORMERS: dict[str, tuple[Callable[[], keras.Model], str, tuple[int, int]]] = {
    "ViT": (vit, "block_1/before", (4, 4)),
    "ViT, mean of all tokens": (lambda: vit(head="mean"), "norm", (4, 4)),
    "ViT, no class token": (lambda: vit(0, head="mean"), "norm", (4, 4)),
    "DeiT": (lambda: vit(2, tells_scores=True), "encoder/block_1/before", (4, 4)),
    "DINOv2, with registers": (lambda: vit(5), "block_1/before", (4, 4)),
    "not square": (lambda: vit(picture=(8, 24)), "block_1/before", (2, 6)),
    "patches cut by operations": (lambda: vit(cut="ops"), "block_1/before", (4, 4)),
    "patches cut by a layer that tells how": (
        lambda: vit(picture=(18, 26), cut="told"),
        "block_1/before",
        (4, 6),
    ),
    "attention spelled out": (spelled_out, "norm_1", (4, 4)),
    "SigLIP": (siglip, "norm", (4, 4)),
    "Swin": (swin, "norm", (4, 4)),
    "MiT": (mit, "map", (4, 4)),
    "hybrid": (hybrid, "block/before", (4, 6)),
}
