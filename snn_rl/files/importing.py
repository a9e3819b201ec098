"""Import of Stable-Baselines3's DQN, PyTorch state dicts and safetensors files.

A Stable-Baselines3 DQN is imported, converted, and retrained with:

    agent = snn_rl.iir("dqn_pong.zip", "PongNoFrameskip-v4", T=1)

No code of a file is executed. The result is an `AnalogNetwork` that takes images in [0, 1], as if
it had been trained by this package.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_rl.core.networks import AnalogNetwork, Conv, Dense, NetworkSpec, SpikingNetwork
from snn_rl.files.archive import Archive, parse_json, read_bytes
from snn_rl.files.checkpoint import load_network
from snn_rl.files.state_dict import check_weights, safetensors_state_dict, torch_state_dict
from snn_rl.utils.errors import UserError

ATARI_IMAGE = (84, 84)
# Strides by kernels: Mnih et al. (2015), Mnih et al. (2013), and [IIR] A.5.1 for CartPole
_STRIDES = {(8, 4, 3): (4, 2, 1), (8, 4): (4, 2), (5, 5, 5): (2, 2, 2)}
_MAX_LAYERS = 100
_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")
# Weights of Stable-Baselines3's DQN; those of q_net_target are ignored
_SB3_LAYER = re.compile(
    r"q_net\.(features_extractor\.cnn|features_extractor\.linear|q_net)\.\d+\.(weight|bias)"
)
_SB3_REFUSED = {
    "quantile_net": "a QR-DQN predicts quantiles of the return, not Q-values. Train a DQN, or "
    "import a state dict whose last layer has one output per action",
    "action_net": "an actor-critic agent (A2C, PPO) has no Q-values",
    "actor": "an actor-critic agent (SAC, TD3, DDPG) has no Q-values",
}


def load_any(
    path: Path,
    image: tuple[int, int] | None = None,
    strides: Sequence[int] | None = None,
    pixel_max: float = 1.0,
) -> AnalogNetwork | SpikingNetwork:
    """Loads a network of any supported kind, detected from the content of the file.

    - A network.safetensors of this package. The other arguments are ignored.
    - A zip of Stable-Baselines3's `DQN("CnnPolicy")`, with any features_dim and net_arch.
    - A state dict of convolutions and dense layers with ReLU between them, from
      `torch.save(network.state_dict(), path)`, from a checkpoint's `state_dict`,
      `model_state_dict` or `model`, or from a safetensors file. Names of layers are ignored: each
      layer is the next one in the file whose inputs match the outputs of the previous layer.

    Args:
        path: Path of the file.
        image: (height, width) of an image; None: the size that the file names, or 84x84.
        strides: Strides of the convolutions; None: those of the Mnih networks of 2013 (kernels
            8, 4) and 2015 (8, 4, 3), or of the CartPole network (5, 5, 5).
        pixel_max: Largest pixel value in the training of the network: 1 if images were divided by
            255, as Stable-Baselines3 does, or 255. The first layer's weights are scaled by it.
            Files of Stable-Baselines3 override the argument.

    Returns:
        The network in float32; spiking only if the file is a spiking network of this package.
    """
    name = str(path)
    data = read_bytes(path)
    if data[:4] == b"PK\x03\x04":
        archive = Archive(data, name)
        if "policy.pth" in archive or "data" in archive:
            return _from_sb3(archive, image, name)
    elif data[8:9] == b"{":
        tensors, metadata = safetensors_state_dict(data, name)
        if isinstance(metadata, dict) and "snn_rl" in metadata:
            return load_network(path)[0]
        return from_state_dict(tensors, image, strides, pixel_max, name)
    elif data[:1] != b"\x80":  # the first byte of a pickle
        raise UserError(
            f"{name} is damaged or not supported: expected a safetensors file, a PyTorch state "
            "dict, or a zip file of a Stable-Baselines3 DQN"
        )
    return from_state_dict(torch_state_dict(data, name), image, strides, pixel_max, name)


def from_state_dict(
    tensors: Mapping[str, Tensor],
    image: tuple[int, int] | None = None,
    strides: Sequence[int] | None = None,
    pixel_max: float = 1.0,
    name: str = "the state dict",
) -> AnalogNetwork:
    """Builds the network of a state dict of convolutions and dense layers.

    Args:
        tensors: Weights and biases by name, in the order of the layers.
        image: See `load_any`.
        strides: See `load_any`.
        pixel_max: See `load_any`.
        name: Name of the state dict in error messages.
    """
    for key in tensors:
        if key.rpartition(".")[2] in _BATCH_NORM:
            raise UserError(
                f"{name} has batch normalization ({key[:100]!r}), which must be fused before the "
                "import: torch.nn.utils.fuse_conv_bn_eval(conv, bn) returns the convolution"
            )
    check_weights(tensors.items(), name)
    layers = _layers(tensors, name)
    convs = [layer for layer in layers if layer.weight.dim() == 4]
    dense = [layer for layer in layers if layer.weight.dim() == 2]
    if not dense:
        raise UserError(f"{name} has no dense layer that outputs Q-values")
    kernels = tuple(layer.weight.shape[2] for layer in convs)
    chosen = tuple(strides) if strides is not None else _STRIDES.get(kernels, ())
    if len(chosen) != len(convs) or any(step < 1 for step in chosen):
        wrong = (
            "unknown strides" if strides is None else f"strides=[{_list(chosen)}] does not match"
        )
        raise UserError(
            f"{name} has {len(convs)} convolutions (kernels {_list(kernels)}), but {wrong}: give a "
            "stride of 1 or more for each, for example strides=[4,2,1]"
        )
    height, width = image or ATARI_IMAGE
    if convs:
        channels = convs[0].inputs
        convs = _chain(convs, channels, name)
    else:
        channels, rest = divmod(dense[0].inputs, height * width)
        if rest or not channels:
            raise UserError(
                f"{name}: its first layer has {dense[0].inputs} inputs, which does not match "
                f"images of {height}x{width}"
            )
    hidden: list[Conv | Dense] = [
        Conv(layer.outputs, layer.weight.shape[2], step)
        for layer, step in zip(convs, chosen, strict=True)
    ]
    try:
        shapes = NetworkSpec((channels, height, width), tuple(hidden), 1).shapes()
    except ValueError as error:
        raise UserError(f"{name} does not match its images: {error}") from None
    flat = torch.Size(shapes[-1] if shapes else (channels, height, width)).numel()
    if all(layer.inputs != flat for layer in dense):
        raise UserError(
            f"{name}: with strides {_list(chosen)}, the convolutions map {channels}x{height}x"
            f"{width} images to {flat} numbers, but no dense layer has {flat} inputs (the first "
            f"has {dense[0].inputs}). Set strides=[...] if they differ; padding, pooling and other "
            "image sizes are not supported"
        )
    dense = _chain(dense, flat, name)
    hidden += [Dense(layer.outputs) for layer in dense[:-1]]
    ordered = [*convs, *dense]
    bias = any(layer.bias is not None for layer in ordered)
    spec = NetworkSpec((channels, height, width), tuple(hidden), dense[-1].outputs, bias)
    weights = {}
    for i, layer in enumerate(ordered):
        key = "head" if i == len(ordered) - 1 else f"synapses.{i}"
        weights[f"{key}.weight"] = layer.weight.float() * (pixel_max if i == 0 else 1.0)
        if bias:
            zeros = torch.zeros(layer.outputs)
            weights[f"{key}.bias"] = zeros if layer.bias is None else layer.bias.float()
    with torch.device("meta"):  # draws no random numbers
        network = AnalogNetwork(spec)
    network.load_state_dict(weights, assign=True)
    return network


class _Layer(NamedTuple):
    """A weight layer of a state dict."""

    name: str
    weight: Tensor
    bias: Tensor | None

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]


def _layers(tensors: Mapping[str, Tensor], name: str) -> list[_Layer]:
    """Pairs weights with their biases, in order, and rejects all other tensors."""
    found: list[_Layer] = []
    biases = {key.removesuffix("bias"): t for key, t in tensors.items() if key.endswith("bias")}
    for key, tensor in tensors.items():
        if key.endswith("bias"):
            continue
        prefix, shown = key.removesuffix("weight"), repr(key[:100])
        if prefix == key:
            raise UserError(
                f"{name} is not a plain stack of layers: {shown} is neither a weight nor a bias"
            )
        if tensor.dim() not in (2, 4) or 0 in tensor.shape:
            raise UserError(
                f"{name}: {shown} of shape {tuple(tensor.shape)} belongs neither to a convolution "
                "nor to a dense layer (normalization must be fused before the import)"
            )
        if tensor.dim() == 4 and tensor.shape[2] != tensor.shape[3]:
            raise UserError(f"{name}: {shown} is a convolution whose kernel is not square")
        bias = biases.pop(prefix, None)
        if bias is not None and bias.shape != tensor.shape[:1]:
            raise UserError(f"{name}: the bias of {shown} does not have one value per output")
        found.append(_Layer(shown, tensor, bias))
    if biases:
        raise UserError(f"{name}: {(next(iter(biases)) + 'bias')[:100]!r} has no weight")
    if not 1 <= len(found) <= _MAX_LAYERS:
        raise UserError(f"{name} has {len(found)} layers, but 1 to {_MAX_LAYERS} are supported")
    return found


def _chain(layers: Sequence[_Layer], size: int, name: str) -> list[_Layer]:
    """Orders layers so that each one takes the outputs of the previous one."""
    rest = list(layers)
    ordered: list[_Layer] = []
    while rest:
        following = next((layer for layer in rest if layer.inputs == size), None)
        if following is None:
            others = ", ".join(f"{layer.name} takes {layer.inputs}" for layer in rest[:3])
            raise UserError(
                f"{name} is not a plain stack of layers: no layer takes the {size} outputs of "
                f"{ordered[-1].name if ordered else 'the input'} ({others}); branches, as in "
                "dueling networks, are not supported"
            )
        rest.remove(following)
        ordered.append(following)
        size = following.outputs
    return ordered


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)


def _from_sb3(archive: Archive, image: tuple[int, int] | None, name: str) -> AnalogNetwork:
    """Builds the network of a Stable-Baselines3 zip from its JSON and tensors."""
    data = parse_json(archive.read("data"), f"data in {name}")
    if not isinstance(data, dict):
        raise UserError(f"{name} is not a Stable-Baselines3 agent: its data is not a JSON object")
    if "qrdqn" in str(_plain(data, "policy_class").get("__module__", "")):
        raise UserError(f"{name} cannot be imported: {_SB3_REFUSED['quantile_net']}")
    tensors = torch_state_dict(archive.read("policy.pth"), f"policy.pth in {name}")
    for key in tensors:
        if reason := _SB3_REFUSED.get(key.split(".")[0]):
            raise UserError(f"{name} cannot be imported: {reason}")
    layers = {key: t for key, t in tensors.items() if not key.startswith("q_net_target.")}
    unknown = [key for key in layers if not _SB3_LAYER.fullmatch(key)]
    if unknown or not any(".cnn." in key for key in layers):
        raise UserError(
            f"{name} cannot be imported: it is not a DQN of Stable-Baselines3 with CnnPolicy and "
            f"NatureCNN ({repr(unknown[0][:100]) if unknown else 'it has no convolutions'})"
        )
    kwargs = _plain(data, "policy_kwargs")
    activation = str(kwargs.get("activation_fn", "ReLU"))
    has_hidden = sum(key.startswith("q_net.q_net.") for key in layers) > 2
    if has_hidden and not re.search(r"\bReLU\b", activation):
        raise UserError(
            f"{name} cannot be imported: its hidden layers have activation_fn="
            f"{activation[:100]!r}, but only ReLU can be converted to spikes"
        )
    channels = next((t.shape[1] for key, t in layers.items() if t.dim() == 4), 0)
    shape = _plain(data, "observation_space").get("_shape")
    if image is None and isinstance(shape, list) and len(shape) == 3:
        size = shape[1:] if shape[0] == channels else shape[:2]
        if all(type(n) is int and 0 < n < 10_000 for n in size):
            image = (size[0], size[1])
    raw = kwargs.get("normalize_images", True) is False
    nature_strides = (4, 2, 1)
    return from_state_dict(layers, image, nature_strides, 255.0 if raw else 1.0, name)


def _plain(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the plain JSON that accompanies a pickle; the pickle is never read."""
    entry = data.get(key)
    return entry if isinstance(entry, dict) else {}
