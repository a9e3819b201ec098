"""Descriptions of layer stacks: serialization, connections, names, and invalid stacks."""

from dataclasses import replace
from itertools import pairwise

import pytest

from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Block,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkSpec,
)

SPEC = NetworkSpec((2, 10, 9), (Conv(4, 3, 2), Conv(3, 2), Dense(7)), 3, bias=True)
RESIDUAL = NetworkSpec(
    (2, 12, 12),
    (Conv(4, 3, 1, 1), Dropout(), AvgPool(2), Block(4), Block(6, 2), MaxPool(2), Dense(8)),
    3,
    bias=True,
)


@pytest.mark.parametrize(
    "spec",
    [SPEC, replace(SPEC, clip=True), RESIDUAL, IMAGE_NETWORKS["resnet8"]((3, 32, 32), 10)],
    ids=["plain", "clip", "residual", "batch_norm"],
)
def test_description_round_trip(spec):
    assert NetworkSpec.from_dict(spec.to_dict()) == spec
    stack = [spec.to_dict()]
    while stack:
        item = stack.pop()
        assert type(item) in (dict, list, str, int, bool)
        if isinstance(item, dict | list):
            stack.extend(item.values() if isinstance(item, dict) else item)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"layers": [{"kind": "pool"}]},
        {"layers": [{"kind": "dense", "units": "many"}]},
        {"layers": [{"kind": "dense", "units": 3, "color": 1}]},
        {"layers": ["dense"]},
        {"input_shape": [1, 6]},
        {"input_shape": [1, 6, float("inf")]},
        {"outputs": None},
    ],
)
def test_invalid_description_is_rejected(change):
    with pytest.raises(ValueError, match="not a valid network description"):
        NetworkSpec.from_dict({**SPEC.to_dict(), **change})
    for key in change:
        rest = {name: value for name, value in SPEC.to_dict().items() if name != key}
        with pytest.raises(ValueError, match="not a valid network description"):
            NetworkSpec.from_dict(rest)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv(4, 11),), "too small for layer 0, a 11x11 convolution"),
        ((Conv(4, 5, 2), Conv(4, 4)), "too small for layer 1"),
        ((AvgPool(11),), "too small for layer 0, a 11x11 pooling"),
        ((Conv(4, 3, 0),), "layer 0"),
        ((Conv(4, 3, padding=-1),), "layer 0"),
        ((Conv(4, 3), Dense(0)), "layer 1"),
        ((Dense(4), Conv(4, 1)), "layer 1: a Conv cannot follow a dense layer"),
        ((Dense(4), AvgPool(2)), "layer 1: a AvgPool cannot follow a dense layer"),
        ((Dense(4), Block(4)), "layer 1: a Block cannot follow a dense layer"),
    ],
)
def test_invalid_stack_is_rejected(layers, message):
    with pytest.raises(ValueError, match=message):
        AnalogNetwork(NetworkSpec(SPEC.input_shape, layers, 2))


def test_connections_of_residual_blocks():
    found = [(c.source, c.target) for c in RESIDUAL.connections()]
    first_block = [(0, 1), (1, 2), (0, 2)]
    second_block = [(2, 3), (3, 4), (2, 4)]
    assert found == [(None, 0), *first_block, *second_block, (4, 5), (5, 6)]
    assert RESIDUAL.names() == [
        *("conv1", "block1.1", "block1.2", "block2.1", "block2.2", "fc1", "head")
    ]


def test_layer_names_are_unique():
    names = SPEC.names()
    assert len(names) == len(set(names)) == len(SPEC.layers) + 1
    kinds = [name.rstrip("0123456789") for name in names]
    assert kinds == ["conv", "conv", "fc", "head"]
    assert all(a != b for a, b in pairwise(names))
