"""Make the pictures of the documentation: ``python docs/make_images.py``.

Most of them are of the embedded picture, explained by the embedded model. For what that model
cannot do, small ones are trained here, on data that is drawn here, and so is the same model again
to show how it learns. The pictures are written to
``docs/images``. A stored picture that looks the same is left as it is, so that files change only
where the pictures do. What is trained comes out a little different on other machines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops
from PIL import Image, ImageChops

import kerasight
from kerasight import targets
from kerasight.callbacks import ExplainPredictions
from kerasight.cam.methods import CAMS, METHODS
from kerasight.demo import (
    CLASS_NAMES,
    draw_pair,
    draw_picture,
    load_model,
    load_picture,
    preprocess,
)
from kerasight.demo.classifier import build_model
from kerasight.formatters.sheet import Panel, sheet

FOLDER = Path(__file__).parent / "images"
SMALL = (256, 256)  # pictures that stand three in a row
# TensorFlow rounds as the processor has it, which moves some pixels by a level of 255, or by two.
ROUNDING = 2


def save(image: Image.Image, name: str) -> None:
    """Write a picture to the folder, without the opacity that no overlay makes use of."""
    path, image = FOLDER / f"{name}.png", image.convert("RGB")
    kept = path.exists() and looks_like(image, path)
    if not kept:
        image.save(path, optimize=True)
    what = "as it was" if kept else f"{image.width} x {image.height}"
    print(f"{path.relative_to(FOLDER.parents[1])}: {what}")


def looks_like(image: Image.Image, path: Path) -> bool:
    """Whether a stored picture is this one, but for rounding."""
    with Image.open(path) as stored:
        if stored.mode != image.mode or stored.size != image.size:
            return False
        difference = ImageChops.difference(stored, image)
    return all(most <= ROUNDING for _, most in difference.getextrema())


def trained(model: keras.Model, docs: Any, answers: Any, loss: Any, **asked: Any) -> keras.Model:
    """A model, trained from its first weights on."""
    model.compile(keras.optimizers.Adam(asked.pop("rate", 0.01)), loss)
    model.fit(docs, answers, batch_size=32, verbose=0, **asked)
    return model


def draw_signal() -> None:
    """A signal of two channels: the class is the channel that has a bump."""
    keras.utils.set_random_seed(0)

    def bumps(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        docs = rng.normal(0, 0.15, (number, 96, 2)).astype(np.float32)
        places, answers = rng.integers(9, 87, number), rng.integers(0, 2, number)
        for doc, place, answer in zip(docs, places, answers, strict=True):
            doc[:, answer] += np.exp(-0.5 * ((np.arange(96) - place) / 3) ** 2)
        return docs, answers

    inputs = keras.Input((96, 2))
    x = layers.Conv1D(8, 7, padding="same", activation="relu")(inputs)
    x = layers.Conv1D(8, 5, padding="same", activation="relu")(layers.MaxPooling1D(2)(x))
    x = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, x)
    trained(model, *bumps(512, seed=0), "sparse_categorical_crossentropy", epochs=8)
    docs, _ = bumps(1, seed=1)
    names = ["bump in channel 1", "bump in channel 2"]
    save(kerasight.show_prediction(model, docs, target_names=names), "signal")


def draw_volume() -> None:
    """A volume of noise: the class is whether the ball in it is dark or bright."""
    keras.utils.set_random_seed(0)

    def balls(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        docs = rng.normal(0, 0.15, (number, 20, 20, 20, 1)).astype(np.float32)
        places, answers = rng.integers(4, 16, (number, 3)), rng.integers(0, 2, number)
        voxels = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), axis=-1)
        for doc, place, answer in zip(docs, places, answers, strict=True):
            doc[((voxels - place) ** 2).sum(axis=-1) <= 10] += 1 if answer else -1
        return docs, answers

    inputs = keras.Input((20, 20, 20, 1))
    x = layers.Conv3D(6, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv3D(6, 3, padding="same", activation="relu")(layers.MaxPooling3D(2)(x))
    x = layers.Dense(2, activation="softmax")(layers.GlobalMaxPooling3D()(x))
    model = keras.Model(inputs, x)
    trained(model, *balls(256, seed=0), "sparse_categorical_crossentropy", epochs=8)
    docs, _ = balls(1, seed=1)
    asked = {"method": "hirescam", "logits": True, "target_names": ["dark ball", "bright ball"]}
    save(kerasight.show_prediction(model, docs, **asked), "volume")


def draw_text() -> None:
    """A review: its stars are those that its words give and take."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    moods = (
        (0.0, "long", "loud", "new", "french"),
        (0.5, "clever", "funny", "moving", "brilliant"),
        (-0.5, "dull", "silly", "clumsy", "tedious"),
    )
    texts, stars = [], []
    for _ in range(1024):
        each = [moods[number] for number in rng.integers(0, 3, rng.integers(2, 6))]
        things = rng.permutation(["plot", "music", "cast", "ending", "dialogue", "camera"])
        parts = [
            f"the {thing} is {words[rng.integers(len(words))]}{rng.choice([',', ' and', ' but'])}"
            for thing, (_, *words) in zip(things, each, strict=False)
        ]
        texts.append(" ".join(parts))
        stars.append(3 + sum(worth for worth, *_ in each))
    numbers = layers.TextVectorization(output_sequence_length=32)
    numbers.adapt(texts)
    inputs = keras.Input((), dtype="string")
    x = layers.Embedding(numbers.vocabulary_size(), 8)(numbers(inputs))
    x = layers.Conv1D(8, 1, activation="relu", kernel_regularizer="l2")(x)
    three = keras.initializers.Constant(3)
    x = layers.Dense(1, bias_initializer=three)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, x)
    trained(model, ops.convert_to_tensor(texts), np.array(stars), "mse", epochs=20)
    text = (
        "The plot is clever and the music is moving, but the dialogue is clumsy, the camera is "
        "new, and the ending is dull."
    )
    expl = kerasight.explain_prediction(model, text, target=targets.Number())
    save(kerasight.format_as_image(expl), "text")


class ClassToken(layers.Layer):
    """Puts a learnt token before all others, and adds positions."""

    def build(self, shape: Any) -> None:
        """Make both."""
        self.token = self.add_weight(shape=(1, 1, shape[2]), initializer="normal")
        self.places = self.add_weight(shape=(1, shape[1] + 1, shape[2]), initializer="normal")

    def call(self, x: Any) -> Any:
        """Add both."""
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[2]))
        return ops.concatenate([token, x], axis=1) + self.places


class OnFeatures:
    """Heads that are trained on feature maps of the embedded model, for pictures of two objects."""

    def __init__(self, demo: keras.Model, number: int = 240) -> None:
        """Draw the pictures, and run the embedded model on them."""
        self.pictures = [draw_pair(seed, size=96) for seed in range(number)]
        outputs = [demo.get_layer(name).output for name in ("relu3_2", "features")]
        self.body = keras.Model(demo.input, outputs)
        docs = np.concatenate([preprocess(one.image) for one in self.pictures])
        self.fine, self.coarse = self.body.predict(docs, verbose=0)

    def transformer(self) -> keras.Model:
        """A block on the cells of the map, read at a class token; a sigmoid for each class."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input(self.coarse.shape[1:])
        x = layers.Dense(32)(layers.Reshape((144, 96))(inputs))
        x = ClassToken()(x)
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(y)])
        x = layers.LayerNormalization()(x)
        head = keras.Model(inputs, layers.Dense(len(CLASS_NAMES), activation="sigmoid")(x[:, 0]))
        answers = np.zeros((len(self.pictures), len(CLASS_NAMES)), np.float32)
        for row, one in zip(answers, self.pictures, strict=True):
            row[list(one.labels)] = 1
        trained(head, self.coarse, answers, "binary_crossentropy", epochs=10, rate=0.003)
        return keras.Model(self.body.input, head(self.body.output[1]))

    def segmentation(self) -> keras.Model:
        """A class for each pixel; the first is the background."""
        keras.utils.set_random_seed(0)
        fine, coarse = (keras.Input(maps.shape[1:]) for maps in (self.fine, self.coarse))
        x = layers.UpSampling2D(2, interpolation="bilinear")(coarse)
        x = layers.Concatenate()([fine, x])
        x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
        head = keras.Model([fine, coarse], layers.Conv2D(1 + len(CLASS_NAMES), 1)(x))
        answers = np.zeros((len(self.pictures), 24, 24), np.int32)
        for row, one in zip(answers, self.pictures, strict=True):
            for label, mask in zip(one.labels, one.masks, strict=True):
                row[mask.reshape(24, 4, 24, 4).mean(axis=(1, 3)) >= 0.5] = 1 + label
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained(head, [self.fine, self.coarse], answers, loss, epochs=24, rate=0.003)
        x = layers.UpSampling2D(4, interpolation="bilinear")(head(self.body.output))
        return keras.Model(self.body.input, layers.Softmax()(x))

    def detector(self) -> keras.Model:
        """Of each cell of the map the classes, and how far away the edges of the box are."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input(self.coarse.shape[1:])
        x = layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
        few = keras.initializers.Constant(-3)
        logits = layers.Conv2D(len(CLASS_NAMES), 1, bias_initializer=few)(x)
        far = keras.initializers.Constant(0.15)
        boxes = layers.Conv2D(4, 1, bias_initializer=far)(x)
        outputs = {
            "logits": layers.Reshape((144, -1), name="logits")(logits),
            "pred_boxes": layers.Reshape((144, 4), name="pred_boxes")(boxes),
        }
        classes = np.zeros((len(self.pictures), 144, len(CLASS_NAMES)), np.float32)
        edges = np.zeros((len(self.pictures), 144, 5), np.float32)
        for of_class, of_edges, one in zip(classes, edges, self.pictures, strict=True):
            for label, mask in zip(one.labels, one.masks, strict=True):
                rows, columns = np.nonzero(mask)
                first = np.array([columns.min(), rows.min()]) / 96
                last = np.array([columns.max() + 1, rows.max() + 1]) / 96
                is_inside = (abs(CELLS - (first + last) / 2) < (last - first) / 4).all(axis=1)
                of_class[is_inside, label] = of_edges[is_inside, 4] = 1
                of_edges[is_inside, :2] = CELLS[is_inside] - first
                of_edges[is_inside, 2:4] = last - CELLS[is_inside]

        def of_boxes(true: Any, found: Any) -> Any:
            return ops.sum(abs(true[..., :4] - found) * true[..., 4:], axis=(1, 2))

        loss = {
            "logits": keras.losses.BinaryFocalCrossentropy(from_logits=True, reduction="sum"),
            "pred_boxes": of_boxes,
        }
        head = keras.Model(inputs, outputs)
        answers = {"logits": classes, "pred_boxes": edges}
        trained(head, self.coarse, answers, loss, epochs=20, rate=0.003)
        return keras.Model(self.body.input, head(self.body.output[1]))


# The middles of the cells of a map of 12 x 12, row by row, as shares of width and height.
CELLS = np.stack(np.meshgrid(*[(np.arange(12) + 0.5) / 12] * 2), axis=-1).reshape(144, 2)


def around_cells(edges: Any) -> Any:
    """Boxes of how far their edges are from the cell that found them."""
    cells = CELLS.astype(np.float32)
    return ops.concatenate([cells - edges[..., :2], cells + edges[..., 2:]], axis=-1)


def draw_heads(demo: keras.Model, picture: Image.Image) -> None:
    """What else than a class a model can say of a picture; and a transformer."""
    on_features = OnFeatures(demo)
    doc, image = preprocess(picture), picture.resize(SMALL)
    rocket = CLASS_NAMES.index("rocket")

    asked: dict[str, Any] = {"logits": True, "target_names": ["background", *CLASS_NAMES]}
    region = targets.Region(1 + rocket)
    model = on_features.segmentation()
    save(kerasight.show_prediction(model, doc, image=image, target=region, **asked), "region")

    asked = {"target_names": CLASS_NAMES, "image": image}
    model = on_features.detector()
    box = targets.Box(0, decode=around_cells)
    save(kerasight.show_prediction(model, doc, target=box, **asked), "box")

    asked |= {"logits": True, "method": "layercam"}
    model = on_features.transformer()
    for name in ("rocket", "house"):
        asked["targets"] = [CLASS_NAMES.index(name)]
        save(kerasight.show_prediction(model, doc, **asked), f"transformer-{name}")


def draw_training(picture: Image.Image) -> None:
    """How the classifier learns where to look, from its first weights on, epoch by epoch."""
    keras.utils.set_random_seed(0)
    drawn = [draw_picture(seed, size=96) for seed in range(800)]
    drawn += [draw_pair(seed, size=96) for seed in range(1000)]
    docs = np.concatenate([preprocess(one.image) for one in drawn])
    answers = np.full((len(drawn), len(CLASS_NAMES)), 0.1 / len(CLASS_NAMES), np.float32)
    for row, one in zip(answers, drawn, strict=True):
        row[list(one.labels)] += 0.9 / len(one.labels)
    frames = []

    def write(tag: str, pictures: Any, step: int, captions: Any) -> None:
        title = f"after epoch {step}" if step else "before training"
        frames.append(sheet([[Panel(pictures[0], title, is_chart=True)]]))

    watch = ExplainPredictions(
        preprocess(picture),
        write,
        images=[picture.resize(SMALL)],
        targets=[CLASS_NAMES.index("rocket"), CLASS_NAMES.index("house")],
        target_names=CLASS_NAMES,
    )
    epochs = 14
    steps = epochs * len(docs) // 32
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, steps, warmup_target=4e-3, warmup_steps=steps // 20
    )
    asked = {"epochs": epochs, "rate": rate, "callbacks": [watch]}
    trained(build_model(), docs, answers, "categorical_crossentropy", **asked)
    path = FOLDER / "training.webp"
    first, *others = [frame.convert("RGB") for frame in frames]
    durations = [1500, *[600] * (epochs - 1), 3000]
    first.save(
        path, save_all=True, append_images=others, duration=durations, loop=0, quality=80, method=6
    )
    print(f"{path.relative_to(FOLDER.parents[1])}: {len(frames)} frames")


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(exist_ok=True)
    model, picture = load_model(), load_picture()
    doc, small = preprocess(picture), picture.resize(SMALL)

    # README and front page: the picture, and where the model looked for two classes.
    save(picture, "picture")
    scores = model.predict(doc, verbose=0)[0]
    for name in ("rocket", "house"):
        target = CLASS_NAMES.index(name)
        save(kerasight.show_prediction(model, doc, targets=[target], image=picture), name)
        print(f"    {name}: {scores[target]:.1%}")

    # Choosing a layer: an early one, one in the middle, and the last.
    for layer in ("relu2_1", "relu3_1", "features"):
        save(kerasight.show_prediction(model, doc, layer=layer, image=small), f"layer-{layer}")

    # The same heatmap drawn in three ways.
    expl = kerasight.explain_prediction(model, doc, image=small)
    save(kerasight.format_as_image(expl, resampling_filter="box"), "format-box")
    save(kerasight.format_as_image(expl, alpha_limit=0.9), "format-opaque")
    save(kerasight.format_as_image(expl, colormap="inferno"), "format-inferno")

    # A heatmap as fine as the input: as it is, cut, and smoothed.
    fine = {"layer": "conv1_1:input", "method": "hirescam", "relu": False}
    house = {"targets": [CLASS_NAMES.index("house")], "image": small}
    expl = kerasight.explain_prediction(model, doc, **fine, **house)
    save(kerasight.format_as_image(expl, outliers=0), "fine-uncut")
    save(kerasight.format_as_image(expl), "fine-cut")
    save(kerasight.format_as_image(expl, absolute=True, blur=1), "fine-smooth")

    # Every method, and the class that is harder to find.
    house = {"targets": [CLASS_NAMES.index("house")], "image": picture.resize((192, 192))}
    panels = [
        Panel(
            kerasight.show_prediction(model, doc, method=name, logits=True, **house),
            METHODS[name].title,
            f'method="{name}"',
        )
        for name in CAMS
    ]
    save(sheet([panels[at : at + 5] for at in range(0, len(panels), 5)]), "methods")

    # Gradients at the input, and masks.
    for place, file, width in (("doc", "attributions", 4), ("outside", "masks", 3)):
        panels = [
            Panel(
                kerasight.show_prediction(model, doc, method=name, logits=True, **house),
                method.title,
            )
            for name, method in METHODS.items()
            if method.at == place
        ]
        rows = [panels[:width], panels[width:]]
        save(sheet([row for row in rows if row]), file)

    # Several methods on one picture.
    compared = kerasight.compare(
        model,
        doc,
        ["grad-cam", "layercam", "eigen-cam", "integrated-gradients", "smoothgrad"],
        targets=[CLASS_NAMES.index("house")],
        target_names=CLASS_NAMES,
        logits=True,
        image=house["image"],
    )
    save(kerasight.format_as_image(compared.explanation), "compared")

    # What speaks for a class, what speaks against it, and both.
    for name, asked in (
        ("for", {}),
        ("against", {"counterfactual": True}),
        ("signed", {"relu": False}),
    ):
        asked |= {"targets": [CLASS_NAMES.index("house")], "image": small}
        save(kerasight.show_prediction(model, doc, **asked), f"evidence-{name}")

    # A contact sheet.
    pictures = [draw_pair(seed, size=192).image for seed in range(3)]
    contact = kerasight.show_predictions(
        model,
        [preprocess(one)[0] for one in pictures],
        images=pictures,
        top_targets=3,
        target_names=CLASS_NAMES,
    )
    save(contact, "sheet")

    # Docs that are no pictures, and targets that are no classes.
    draw_signal()
    draw_volume()
    draw_text()
    draw_heads(model, picture)

    draw_training(picture)


if __name__ == "__main__":
    main()
