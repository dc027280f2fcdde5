"""Make the pictures of the documentation: ``python docs/make_images.py``.

All of them are of the embedded picture, explained by the embedded model. They are written to
``docs/images``. A stored picture that looks the same is left as it is, so that files change only
where the pictures do.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from PIL import Image, ImageChops

import kerasight
from kerasight.cam.methods import METHODS
from kerasight.demo import CLASS_NAMES, draw_pair, load_model, load_picture, preprocess
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

    # Every method, and the class that is harder to find.
    house = {"targets": [CLASS_NAMES.index("house")], "image": picture.resize((192, 192))}
    panels = [
        Panel(
            kerasight.show_prediction(model, doc, method=name, logits=True, **house),
            method.title,
            f'method="{name}"',
        )
        for name, method in METHODS.items()
    ]
    save(sheet([panels[:5], panels[5:]]), "methods")

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


if __name__ == "__main__":
    main()
