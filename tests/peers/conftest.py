"""Where captum and pytorch-grad-cam are not installed there is nothing to compare with, nor where
Keras runs on another framework than theirs; `tox -e peers` installs them."""

import importlib.util

import keras

PEERS = {"test_captum.py": "captum", "test_pytorch_grad_cam.py": "pytorch_grad_cam"}
collect_ignore = [
    file
    for file, name in PEERS.items()
    if keras.config.backend() != "torch" or not importlib.util.find_spec(name)
]
