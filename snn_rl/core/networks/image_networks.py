"""The image classification networks of [IIR] A.2.1 and [STDB] section 4.

All convolutions are 3x3 with padding 1. Pooling is average pooling in [IIR] and [STDB] and
max-pooling in [ULL].
"""

from collections.abc import Callable, Sequence
from functools import partial

from snn_rl.core.networks.spec import (
    AvgPool,
    Block,
    Conv,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    NetworkSpec,
    build_spec,
)
from snn_rl.utils.errors import did_you_mean
from snn_rl.utils.plugins import is_reference

Pooling = type[AvgPool] | type[MaxPool]
Shape = tuple[int, int, int]
ImageNetwork = Callable[..., NetworkSpec]

# From 64 pixels on the images of [IIR] and [STDB] are ImageNet's of 224, and are pooled once more.
LARGE = 64

# Convolutions by their channels; A is a pooling, D a dropout. [IIR] A.2.1 prints 6 and 16. [STDB]
# names 5, 9 and 11 without printing them: 11 is configuration A of Simonyan and Zisserman (2015),
# 9 the network of Lee et al. (2020) that [STDB] compares with, 5 is VGG6 with one dense layer less.
_VGG: dict[str, Sequence[int | str]] = {
    "vgg5": (64, "A", 128, 128, "A"),
    "vgg6": (64, "A", 128, 128, "A"),
    "vgg9": (64, "D", 64, "A", 128, "D", 128, "A", 256, "D", 256, "D", 256, "A"),
    "vgg11": (64, "A", 128, "A", 256, "D", 256, "A", 512, "D", 512, "A", 512, "D", 512),
    "vgg16": (
        *(64, "D", 64, "A", 128, "D", 128, "A", 256, "D", 256, "D", 256, "A"),
        *(512, "D", 512, "D", 512, "A", 512, "D", 512, "D", 512),
    ),
}
_DENSE = {"vgg5": (1024,), "vgg9": (1024,)}  # the others: [IIR] A.2.1
_BLOCKS = {
    # two blocks are what 8 weight layers leave; [STDB] does not print them
    "resnet8": ((64, 1), (128, 2)),
    "resnet20": ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)),
    "resnet34": (
        *((64, 1),) * 3,
        *((128, 2), *((128, 1),) * 3),
        *((256, 2), *((256, 1),) * 5),
        *((512, 2), *((512, 1),) * 2),
    ),
}


def vgg(
    name: str, input_shape: Shape, classes: int, batch_norm: bool = True, pooling: Pooling = AvgPool
) -> NetworkSpec:
    """A VGG: convolutions and 2x2 poolings, dense layers with dropout between them, a linear head.

    Args:
        name: vgg5, vgg6, vgg9, vgg11 or vgg16.
        input_shape: (channels, height, width) of one image.
        classes: Units of the head.
        batch_norm: Batch-norm behind every convolution; without it the network has no bias either.
        pooling: AvgPool or MaxPool.
    """
    layers: list[Layer] = []
    for entry in _VGG[name]:
        if entry == "A":
            layers.append(pooling(2))
        elif entry == "D":
            layers.append(Dropout())
        else:
            layers.append(Conv(int(entry), 3, 1, 1))
    if input_shape[1] >= LARGE:
        layers.append(pooling(2))
    for units in _DENSE.get(name, (4096, 4096)):
        layers += [Dense(units), Dropout()]
    return NetworkSpec(input_shape, tuple(layers), classes, batch_norm=batch_norm)


def resnet(
    name: str, input_shape: Shape, classes: int, batch_norm: bool = True, pooling: Pooling = AvgPool
) -> NetworkSpec:
    """A residual network behind three pre-processing convolutions of 64 channels.

    On large images (224), of which the papers do not print the poolings, there is a second one
    in front of the blocks, and one over what is left behind them.

    Args:
        name: resnet8, resnet20 or resnet34.
        input_shape: (channels, height, width) of one image.
        classes: Units of the head.
        batch_norm: See `vgg`.
        pooling: AvgPool or MaxPool.
    """
    first = Conv(64, 3, 1, 1)
    layers: list[Layer] = [first, Dropout(), first, Dropout(), first, pooling(2)]
    blocks = [Block(channels, stride) for channels, stride in _BLOCKS[name]]
    if input_shape[1] >= LARGE:
        left = input_shape[1] // 4
        for block in blocks:
            left = -(-left // block.stride)
        layers += [pooling(2), *blocks, AvgPool(left)]
    else:
        layers += blocks
    return NetworkSpec(input_shape, tuple(layers), classes, batch_norm=batch_norm)


IMAGE_NETWORKS: dict[str, ImageNetwork] = {
    **{name: partial(vgg, name) for name in _VGG},
    **{name: partial(resnet, name) for name in _BLOCKS},
}


def register_image_network(name: str, builder: ImageNetwork) -> None:
    """Adds an image classification network under a name that the setting `net` accepts.

    Args:
        name: Name of the network, without a colon.
        builder: Function of (input_shape, classes, batch_norm, pooling) that returns a
            `NetworkSpec`.

    Raises:
        ValueError: The name contains a colon or belongs to another network.
    """
    if is_reference(name) or IMAGE_NETWORKS.get(name, builder) is not builder:
        raise ValueError(f"network {name!r}: the name is taken or contains a colon")
    IMAGE_NETWORKS[name] = builder


def image_network(
    name: str, input_shape: Shape, classes: int, batch_norm: bool = True, pooling: Pooling = AvgPool
) -> NetworkSpec:
    """Returns the layer stack of an image classification network.

    Args:
        name: Key of `IMAGE_NETWORKS`, or `module:function` of a builder, see
            `register_image_network`.
        input_shape: (channels, height, width) of one image.
        classes: Units of the head.
        batch_norm: See `vgg`.
        pooling: AvgPool or MaxPool.

    Raises:
        ValueError: No network has this name, or the images are too small for the network.
    """
    if name not in IMAGE_NETWORKS and not is_reference(name):
        raise ValueError(
            f"network must be one of {', '.join(IMAGE_NETWORKS)}, or module:function, not {name}"
            f"{did_you_mean(name, IMAGE_NETWORKS)}"
        )
    return build_spec(
        name, IMAGE_NETWORKS, input_shape, classes, batch_norm=batch_norm, pooling=pooling
    )
