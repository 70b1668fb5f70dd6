#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the files python_*.safetensors beside this script, and checks that Python reads diffeo.safetensors, which the
test "checkpoint: the golden file of this library" makes when the variable DIFFEO_WRITE_GOLDEN is set.

    pip install numpy safetensors && python tests/io/golden/make.py
"""
import json
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

FOLDER = pathlib.Path(__file__).parent


def some(shape, first, scale):
    """Numbers that float32 holds."""
    return (np.arange(np.prod(shape), dtype=np.float64).reshape(shape) + first) * scale


def make():
    # A perceptron of 2 inputs, 3 hidden units and 1 output, as PyTorch shapes it: y = tanh(x W' + b) V' + c.
    w, b, v, c = some((3, 2), -2, 0.25), some((3,), -1, 0.5), some((1, 3), 1, -0.125), some((1,), 3, 0.0625)
    x = some((4, 2), -3, 0.375)
    y = np.tanh(x @ w.T + b) @ v.T + c
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    network = dict(zip(names, [a.astype(np.float32) for a in (w, b, v, c)]))
    safetensors.numpy.save_file(network, FOLDER / "python_network.safetensors")
    others = {
        "x": x,
        "y": y,
        "transposed": np.ascontiguousarray(some((2, 3), 0, 1).T),
        "vector": some((3,), 0, 0.5).astype(np.float32),
        "number": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "cube": np.zeros((2, 2, 2), np.float32),
        "half": np.array([1.5], np.float16),
        "count": np.array([7], np.int64),
        "flag": np.array([True]),
    }
    safetensors.numpy.save_file(others, FOLDER / "python_arrays.safetensors", metadata={"by": 'Python "numpy" \u00e4'})


def check():
    """The values of the test: entry (i, j) of array k is (1 + 100 k + 10 i + j) / 64."""
    shapes = {
        "base.mean": (1, 2),
        "base.log_scale": (1, 2),
        "flow.layers.0.conditioner.layers.0.weight": (3, 1),
        "flow.layers.0.conditioner.layers.0.bias": (1, 3),
        "flow.layers.0.conditioner.layers.1.weight": (2, 3),
        "flow.layers.0.conditioner.layers.1.bias": (1, 2),
        "flow.layers.1.mean": (1, 2),
        "flow.layers.1.scale": (1, 2),
    }
    found = safetensors.numpy.load_file(FOLDER / "diffeo.safetensors")
    assert set(found) == set(shapes), set(found) ^ set(shapes)
    for k, (name, shape) in enumerate(shapes.items()):
        i, j = np.indices(shape)
        assert found[name].dtype == np.float64 and np.array_equal(found[name], (1 + 100 * k + 10 * i + j) / 64), name
    texts = safetensors.safe_open(FOLDER / "diffeo.safetensors", "np").metadata()
    assert texts["author"] == 'me "\u00e4"' and json.loads(texts["diffeo.columns"]) == ["a", "b"]
    architecture = json.loads(texts["diffeo.architecture"])
    flow = dict(architecture["fields"])["flow"]
    assert [layer["settings"]["kind"] for layer in dict(flow["fields"])["layers"]] == ["coupling", "standardize"]
    assert json.loads(texts["diffeo.standardisation"]) == ["flow.layers.1"]


make()
check()
