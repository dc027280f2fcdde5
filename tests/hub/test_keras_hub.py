"""KerasHub's own models, small and with random weights: where they are looked at, and how."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub import models
from tiny_models import make_doc

import kerasight
from kerasight import targets

pytestmark = [
    pytest.mark.hub,
    pytest.mark.filterwarnings("ignore::kerasight.base.HeatmapWarning"),  # weights are random
]


def vit(pooling: str = "token") -> keras.Model:
    backbone = models.ViTBackbone(
        image_shape=(28, 28, 3),
        patch_size=(4, 4),
        num_layers=2,
        num_heads=6,
        hidden_dim=48,
        mlp_dim=96,
    )
    return models.ViTImageClassifier(backbone=backbone, num_classes=3, pooling=pooling)


def deit() -> keras.Model:
    backbone = models.DeiTBackbone(
        image_shape=(28, 28, 3),
        patch_size=4,
        num_layers=2,
        num_heads=6,
        hidden_dim=48,
        intermediate_dim=96,
    )
    return models.DeiTImageClassifier(backbone=backbone, num_classes=3)


def swin() -> keras.Model:
    backbone = models.SwinTransformerBackbone(
        image_shape=(32, 32, 3), embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    return models.SwinTransformerImageClassifier(backbone=backbone, num_classes=3)


def dino(version: int) -> keras.Model:
    """A linear probe of the class token, with four registers beside it."""
    asked: dict[str, Any] = {
        "num_layers": 2,
        "hidden_dim": 16,
        "num_heads": 2,
        "intermediate_dim": 64,
        "layer_scale_init_value": 1.0,
        "num_register_tokens": 4,
    }
    if version == 2:
        side, name = 70, "images"
        backbone = models.DINOV2Backbone(
            patch_size=14, use_swiglu_ffn=False, image_shape=(side, side, 3), **asked
        )
    else:
        side, name = 64, "pixel_values"
        backbone = models.DINOV3Backbone(
            patch_size=16, use_gated_mlp=False, image_shape=(side, side, 3), **asked
        )
    inputs = keras.Input((side, side, 3))
    tokens = backbone({name: inputs})
    return keras.Model(inputs, keras.layers.Dense(3)(tokens[:, 0]), name=f"dino_{version}")


def mit_backbone() -> Any:
    return models.MiTBackbone(
        layerwise_depths=[2, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[32, 64],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[8, 4],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    )


def mit() -> keras.Model:
    return models.MiTImageClassifier(backbone=mit_backbone(), num_classes=3)


def resnet(block_type: str, shape: tuple[int | None, ...]) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[2, 2, 2],
        stackwise_num_strides=[1, 2, 2],
        block_type=block_type,
        use_pre_activation=False,
        image_shape=shape,
    )


def explained(model: keras.Model, side: int | None = None, **asked: Any) -> kerasight.Explanation:
    """The explanation, the same one each time, also once the pass is compiled."""
    side = side or model.input_shape[1]
    doc = make_doc((1, side, side, 3))
    each = [kerasight.explain_prediction(model, doc, relu=False, **asked) for _ in range(6)]
    for one in each[1:]:
        np.testing.assert_allclose(one.targets[0].heatmap, each[0].targets[0].heatmap, atol=1e-4)
    assert each[0].targets[0].heatmap.any()
    return each[0]


CLASSIFIERS: dict[str, tuple[Callable[[], keras.Model], str, tuple[int, int]]] = {
    "ViT": (vit, "transformer_block_2/ln_1", (7, 7)),
    "ViT, mean of all tokens": (lambda: vit("gap"), "vit_encoder/ln", (7, 7)),
    "DeiT": (deit, "transformer_block_2/ln_1", (7, 7)),
    "Swin": (swin, "norm", (4, 4)),
    "DINOv2": (lambda: dino(2), "layers_1/norm1", (5, 5)),
    "DINOv3": (lambda: dino(3), "layers_1/norm1", (4, 4)),
    "MiT": (mit, "output_level_1", (4, 4)),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_are_explained_where_their_patches_last_reach_the_score(name: str) -> None:
    make, path, grid = CLASSIFIERS[name]
    expl = explained(make())
    assert expl.layer.endswith(path)
    assert expl.targets[0].heatmap.shape == grid


def test_regions_of_segmentations_are_explained() -> None:
    segformer = models.SegFormerImageSegmenter(
        backbone=models.SegFormerBackbone(image_encoder=mit_backbone(), projection_filters=64),
        num_classes=4,
    )
    mask = np.eye(32) > 0
    target = explained(segformer, target=targets.Region(1, mask)).targets[0]
    assert target.label == "class 1, in the region of 32 pixels"
    assert target.heatmap.shape == (8, 8)
    deeplab = models.DeepLabV3ImageSegmenter(
        backbone=models.DeepLabV3Backbone(
            image_encoder=resnet("basic_block", (16, 16, 3)),
            low_level_feature_key="P2",
            spatial_pyramid_pooling_key="P4",
            dilation_rates=[6, 12, 18],
            upsampling_size=4,
        ),
        num_classes=2,
        activation="softmax",
    )
    expl = explained(deeplab, 16, target=targets.Region(1, np.ones((16, 16))))
    assert expl.targets[0].heatmap.shape == (16, 16)


def test_boxes_of_retinanet_are_explained() -> None:
    model = models.RetinaNetObjectDetector(
        backbone=models.RetinaNetBackbone(
            image_encoder=resnet("bottleneck_block", (None, None, 3)),
            min_level=3,
            max_level=4,
            use_p5=False,
        ),
        num_classes=10,
        bounding_box_format="yxyx",
        anchor_generator=keras_hub.layers.AnchorGenerator(
            "yxyx", 3, 4, num_scales=3, aspect_ratios=[0.5, 1, 2], anchor_size=4
        ),
    )
    anchors = keras.ops.concatenate(
        list(model.anchor_generator(make_doc((1, 64, 64, 3))).values()), axis=0
    )

    def decode(deltas: Any) -> Any:
        return keras.utils.bounding_boxes.decode_deltas_to_boxes(
            anchors=anchors,
            boxes_delta=deltas,
            encoded_format="center_xywh",
            anchor_format="yxyx",
            box_format="rel_xyxy",
            image_shape=(64, 64, 3),
        )

    box = targets.Box(0, boxes_of="bbox_regression", decode=decode)
    expl = explained(model, 64, target=box)
    left, top, right, bottom = expl.targets[0].box
    assert 0 <= left <= right <= 1
    assert 0 <= top <= bottom <= 1
    assert expl.targets[0].label.endswith("in box 0")


def test_boxes_of_d_fine_are_explained_at_the_maps_that_its_queries_read() -> None:
    backbone = models.HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[
            [8, 8, 16, 1, 3, 3],
            [16, 8, 32, 1, 3, 3],
            [32, 16, 48, 1, 3, 3],
            [48, 16, 64, 1, 3, 3],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True],
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        embedding_size=8,
        use_learnable_affine_block=True,
        hidden_act="relu",
        image_shape=(128, 128, 3),
        out_features=["stage3", "stage4"],
    )
    model = models.DFineObjectDetector(
        backbone=models.DFineBackbone(
            backbone=backbone,
            decoder_in_channels=[16, 16],
            encoder_hidden_dim=16,
            num_denoising=0,
            num_labels=4,
            hidden_dim=16,
            learn_initial_query=False,
            num_queries=10,
            anchor_image_size=(128, 128),
            feat_strides=[16, 32],
            num_feature_levels=2,
            encoder_in_channels=[48, 64],
            encode_proj_layers=[1],
            num_attention_heads=2,
            encoder_ffn_dim=32,
            num_encoder_layers=1,
            hidden_expansion=0.5,
            depth_multiplier=0.5,
            eval_idx=-1,
            num_decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            decoder_n_points=[2, 2],
            lqe_hidden_dim=16,
            num_lqe_layers=2,
            out_features=["stage3", "stage4"],
            image_shape=(128, 128, 3),
        ),
        num_classes=4,
        bounding_box_format="yxyx",
    )
    target = explained(model, 128, target=targets.Box(0)).targets[0]
    assert target.heatmap.shape == (4, 4)
    assert target.label.endswith("in box 0")
    layer = "d_fine_backbone/decoder_input_proj_identity_0"
    fine = explained(model, 128, target=targets.Box(0), layer=layer).targets[0]
    assert fine.heatmap.shape == (8, 8)


def test_what_a_preprocessor_makes_of_a_picture_is_explained() -> None:
    converter = keras_hub.layers.ImageConverter(image_size=(28, 28), scale=1 / 255)
    preprocessor = models.ViTImageClassifierPreprocessor(converter)
    task = vit()
    task.preprocessor = preprocessor
    pixels = 255 * make_doc((1, 40, 60, 3))
    doc = keras.ops.convert_to_numpy(task.preprocessor(pixels))
    assert doc.shape == (1, 28, 28, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", kerasight.HeatmapWarning)
        expl = kerasight.explain_prediction(task, doc)
    assert expl.image.size == (28, 28)


@pytest.mark.parametrize("method", ["attention-rollout", "chefer", "beyond-intuition", "legrad"])
def test_the_attention_of_all_blocks_is_seen(method: str) -> None:
    for model, grid in ((vit(), (7, 7)), (deit(), (7, 7)), (dino(2), (5, 5))):
        doc = make_doc((1, *model.input_shape[1:]))
        expl = kerasight.explain_prediction(model, doc, method=method, targets=[0])
        assert expl.targets[0].heatmap.shape == grid
        assert expl.targets[0].score == pytest.approx(float(model(doc)[0, 0]), abs=1e-5)
    for model in (swin(), dino(3)):
        doc = make_doc((1, *model.input_shape[1:]))
        with pytest.raises(ValueError, match=r"attention of layer .* cannot be seen.*hirescam"):
            kerasight.explain_prediction(model, doc, method=method)
