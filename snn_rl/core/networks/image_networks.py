"""Image classification networks: [IIR] A.2.1, [STDB] section 4, and registered networks.

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
    ImageShape,
    Layer,
    MaxPool,
    NetworkSpec,
    build_spec,
)
from snn_rl.utils.plugins import Registry

Pooling = type[AvgPool] | type[MaxPool]
ImageNetworkBuilder = Callable[..., NetworkSpec]

# Images of at least 64 pixels (ImageNet's 224 in [IIR] and [STDB]) get one more pooling
_LARGE = 64

# Convolutions by their channels; A is a pooling, D a dropout. [IIR] A.2.1 prints 6 and 16. [STDB]
# names 5, 9 and 11 without printing them: 11 is configuration A of Simonyan and Zisserman (2015),
# 9 the network of Lee et al. (2020) that [STDB] compares with, 5 is VGG6 with one dense layer less.
_VGG_LAYERS: dict[str, Sequence[int | str]] = {
    "vgg5": (64, "A", 128, 128, "A"),
    "vgg6": (64, "A", 128, 128, "A"),
    "vgg9": (64, "D", 64, "A", 128, "D", 128, "A", 256, "D", 256, "D", 256, "A"),
    "vgg11": (64, "A", 128, "A", 256, "D", 256, "A", 512, "D", 512, "A", 512, "D", 512),
    "vgg16": (
        *(64, "D", 64, "A", 128, "D", 128, "A", 256, "D", 256, "D", 256, "A"),
        *(512, "D", 512, "D", 512, "A", 512, "D", 512, "D", 512),
    ),
}
_VGG_UNITS = {"vgg5": (1024,), "vgg9": (1024,)}  # the others: [IIR] A.2.1
_RESNET_BLOCKS = {
    # [STDB] does not print the blocks of resnet8; 8 weight layers leave two
    "resnet8": ((64, 1), (128, 2)),
    "resnet20": ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)),
    "resnet34": (
        *((64, 1),) * 3,
        *((128, 2), *((128, 1),) * 3),
        *((256, 2), *((256, 1),) * 5),
        *((512, 2), *((512, 1),) * 2),
    ),
}


def _vgg(
    name: str, shape: ImageShape, classes: int, batch_norm: bool = True, pooling: Pooling = AvgPool
) -> NetworkSpec:
    """Returns a VGG: convolutions and 2x2 pooling, dense layers with dropout, and a linear head."""
    layers: list[Layer] = []
    for entry in _VGG_LAYERS[name]:
        if entry == "A":
            layers.append(pooling(2))
        elif entry == "D":
            layers.append(Dropout())
        else:
            layers.append(Conv(int(entry), 3, 1, 1))
    if shape[1] >= _LARGE:
        layers.append(pooling(2))
    for units in _VGG_UNITS.get(name, (4096, 4096)):
        layers += [Dense(units), Dropout()]
    return NetworkSpec(shape, tuple(layers), classes, batch_norm=batch_norm)


def _resnet(
    name: str, shape: ImageShape, classes: int, batch_norm: bool = True, pooling: Pooling = AvgPool
) -> NetworkSpec:
    """Returns a residual network with three convolutions of 64 channels before its blocks.

    Large images are pooled once more before the blocks, and completely after them. The papers do
    not print these poolings.
    """
    first = Conv(64, 3, 1, 1)
    layers: list[Layer] = [first, Dropout(), first, Dropout(), first, pooling(2)]
    blocks = [Block(channels, stride) for channels, stride in _RESNET_BLOCKS[name]]
    if shape[1] >= _LARGE:
        left = shape[1] // 4
        for block in blocks:
            left = -(-left // block.stride)
        layers += [pooling(2), *blocks, AvgPool(left)]
    else:
        layers += blocks
    return NetworkSpec(shape, tuple(layers), classes, batch_norm=batch_norm)


IMAGE_NETWORKS: Registry[ImageNetworkBuilder] = Registry(
    "net",
    {
        **{name: partial(_vgg, name) for name in _VGG_LAYERS},
        **{name: partial(_resnet, name) for name in _RESNET_BLOCKS},
    },
)


def register_image_network(name: str, builder: ImageNetworkBuilder) -> None:
    """Adds an image classification network under a name that the setting `net` accepts.

    Args:
        name: New name without a colon, otherwise a ValueError is raised.
        builder: Function of (input_shape, classes, batch_norm, pooling) to a `NetworkSpec`.
    """
    IMAGE_NETWORKS.register(name, builder)


def image_network(
    name: str,
    input_shape: ImageShape,
    classes: int,
    batch_norm: bool = True,
    pooling: Pooling = AvgPool,
) -> NetworkSpec:
    """Returns the layer stack of an image classification network.

    Args:
        name: Key of `IMAGE_NETWORKS`, or `module:function` of a builder (see
            `register_image_network`).
        input_shape: (channels, height, width) of one image.
        classes: Units of the head.
        batch_norm: True if batch normalization follows every convolution. Without it the built-in
            networks have no biases either.
        pooling: AvgPool or MaxPool.

    Raises:
        ValueError: No network has this name, or the images are too small for the network.
    """
    return build_spec(
        IMAGE_NETWORKS, name, input_shape, classes, batch_norm=batch_norm, pooling=pooling
    )
