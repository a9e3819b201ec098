"""Networks from elsewhere: Stable-Baselines3's DQN, PyTorch state dicts, safetensors.

Three lines take one to a single timestep (the environment is Stable-Baselines3's, uint8 images):

    teacher = load_any(Path("dqn_pong.zip"))
    student = convert(teacher, observe(teacher, env), SpikingOptions(5))
    agent = iir(student, teacher, env)                    # snn_rl.agents

Nothing of a file is ever executed. What comes out is an `AnalogNetwork`,
as if it had been trained here: it takes images in [0, 1].
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_rl.core.networks import AnalogNetwork, Conv, Dense, NetworkSpec, SpikingNetwork
from snn_rl.files.archive import Archive, parse_json, read_bytes
from snn_rl.files.checkpoint import load_network
from snn_rl.files.state_dict import (
    check_weights,
    safetensors_state_dict,
    torch_state_dict,
)
from snn_rl.utils.errors import UserError

ATARI_IMAGE = (84, 84)
# Strides by kernels: Mnih et al. (2015), Mnih et al. (2013), and [IIR] A.5.1 for CartPole
_STRIDES = {(8, 4, 3): (4, 2, 1), (8, 4): (4, 2), (5, 5, 5): (2, 2, 2)}
_MAX_LAYERS = 100
# Weights as Stable-Baselines3's DQN names them; q_net_target's are left aside
_SB3_LAYER = re.compile(
    r"q_net\.(features_extractor\.cnn|features_extractor\.linear|q_net)\.\d+\.(weight|bias)"
)
_SB3_KINDS = {
    "quantile_net": "it is a QR-DQN: its outputs are quantiles of the return, not Q-values, and "
    "a student would have to be taught their mean; train a DQN, or import a state dict whose last "
    "layer gives one number per action",
    "action_net": "it is an actor-critic agent (A2C, PPO): it has no Q-values to teach",
    "actor": "it is an actor-critic agent (SAC, TD3, DDPG): it has no Q-values to teach",
}


def load_any(
    path: Path,
    image: tuple[int, int] | None = None,
    strides: Sequence[int] | None = None,
    pixel_max: float = 1.0,
) -> AnalogNetwork | SpikingNetwork:
    """Loads a network of any kind that can be imported; its content tells which it is.

    - A network.safetensors of ours: as it is, and the other arguments are not looked at.
    - A zip of Stable-Baselines3's `DQN("CnnPolicy")`, with any features_dim and net_arch.
    - A state dict of convolutions and fully connected layers with ReLU between them, from
      `torch.save(network.state_dict(), path)` (also as `state_dict` beside an optimizer's) or as
      safetensors. Names do not matter: each layer is the next in the file whose inputs are the
      outputs of the layer before.

    Args:
        path: The file.
        image: (height, width) of one image; None: what the file says, or 84x84.
        strides: Of the convolutions; None: those of the Mnih nets of 2013 (kernels 8, 4) and 2015
            (8, 4, 3), or of the CartPole net (5, 5, 5).
        pixel_max: The largest pixel value the network was trained on: 1 if images were divided by
            255, as Stable-Baselines3 does, or 255. The first layer's weights take it up. What
            a Stable-Baselines3 file says of it goes before.

    Returns:
        The network, in float32. It is spiking only if the file is one of ours that is.

    Raises:
        UserError: The file is missing, damaged or not trusted, or is no such network.
    """
    name = str(path)
    data = read_bytes(path)
    if data[:4] == b"PK\x03\x04":
        archive = Archive(data, name)
        if "policy.pth" in archive or "data" in archive:
            return _from_sb3(archive, image, name)
        return from_state_dict(torch_state_dict(data, name), image, strides, pixel_max, name)
    if data[8:9] == b"{":
        tensors, metadata = safetensors_state_dict(data, name)
        if isinstance(metadata, dict) and "snn_rl" in metadata:
            return load_network(path)[0]
        return from_state_dict(tensors, image, strides, pixel_max, name)
    if data[:1] == b"\x80":
        raise UserError(
            f"{name} is a bare pickle, or of PyTorch before 1.6: it is not read. Save the weights "
            "again, with torch.save(network.state_dict(), path)"
        )
    raise UserError(
        f"{name} is damaged or of no kind that can be imported: a safetensors file, a PyTorch "
        "state dict, or a zip of Stable-Baselines3's DQN"
    )


def from_state_dict(
    tensors: Mapping[str, Tensor],
    image: tuple[int, int] | None = None,
    strides: Sequence[int] | None = None,
    pixel_max: float = 1.0,
    name: str = "the state dict",
) -> AnalogNetwork:
    """Builds the network that a state dict of convolutions and linear layers belongs to.

    See `load_any` for the arguments.

    Args:
        tensors: Weights and biases by name, in the order of the layers.
        image: See `load_any`.
        strides: See `load_any`.
        pixel_max: See `load_any`.
        name: What it is called in errors.

    Raises:
        UserError: It is no such stack, or does not fit the images or the strides.
    """
    check_weights(tensors.items(), name)
    layers = _layers(tensors, name)
    convs = [layer for layer in layers if layer[1].dim() == 4]
    dense = [layer for layer in layers if layer[1].dim() == 2]
    if not dense:
        raise UserError(f"{name} has no fully connected layer to give Q-values")
    kernels = tuple(weight.shape[2] for _, weight, _ in convs)
    chosen = tuple(strides) if strides is not None else _STRIDES.get(kernels, ())
    if len(chosen) != len(convs) or any(step < 1 for step in chosen):
        wrong = "their strides are not known"
        if strides is not None:
            wrong = f"strides=[{_list(chosen)}] does not fit them"
        raise UserError(
            f"{name} has {len(convs)} convolutions (kernels {_list(kernels)}), and {wrong}: say a "
            "stride of 1 or more for each, for example strides=[4,2,1]"
        )
    height, width = image or ATARI_IMAGE
    if convs:
        convs = _chain(convs, convs[0][1].shape[1], name)
        channels = convs[0][1].shape[1]
    else:
        channels, rest = divmod(dense[0][1].shape[1], height * width)
        if rest or not channels:
            raise UserError(
                f"{name}: its first layer takes {dense[0][1].shape[1]} numbers, which are no "
                f"images of {height}x{width}"
            )
    hidden: list[Conv | Dense] = [
        Conv(weight.shape[0], weight.shape[2], step)
        for (_, weight, _), step in zip(convs, chosen, strict=True)
    ]
    try:
        shapes = NetworkSpec((channels, height, width), tuple(hidden), 1).shapes()
    except ValueError as error:
        raise UserError(f"{name} does not fit its images: {error}") from None
    flat = torch.Size(shapes[-1] if shapes else (channels, height, width)).numel()
    if all(weight.shape[1] != flat for _, weight, _ in dense):
        raise UserError(
            f"{name}: with strides {_list(chosen)} the convolutions turn {channels}x{height}x"
            f"{width} images into {flat} numbers, and no fully connected layer takes as many "
            f"(the first takes {dense[0][1].shape[1]}). Say strides=[...] if they are others; "
            "padding, pooling and other image sizes are not supported"
        )
    dense = _chain(dense, flat, name)
    hidden += [Dense(weight.shape[0]) for _, weight, _ in dense[:-1]]
    ordered = [*convs, *dense]
    bias = any(b is not None for _, _, b in ordered)
    spec = NetworkSpec((channels, height, width), tuple(hidden), dense[-1][1].shape[0], bias)
    weights = {}
    for i, (_, weight, own) in enumerate(ordered):
        key = "head" if i == len(ordered) - 1 else f"synapses.{i}"
        scale = pixel_max if i == 0 else 1.0
        weights[f"{key}.weight"] = weight.float() * scale
        if bias:
            zeros = torch.zeros(weight.shape[0])
            weights[f"{key}.bias"] = zeros if own is None else own.float()
    with torch.device("meta"):  # draws no random number
        network = AnalogNetwork(spec)
    network.load_state_dict(weights, assign=True)
    return network


# (name, weight, bias)
_Layer = tuple[str, Tensor, Tensor | None]


def _layers(tensors: Mapping[str, Tensor], name: str) -> list[_Layer]:
    """Weights with their biases, in order; refuses everything else."""
    found: list[_Layer] = []
    biases = {key.removesuffix("bias"): t for key, t in tensors.items() if key.endswith("bias")}
    for key, tensor in tensors.items():
        if key.endswith("bias"):
            continue
        prefix, shown = key.removesuffix("weight"), repr(key[:100])
        if prefix == key:
            raise UserError(
                f"{name} is no plain stack of layers: {shown} is neither a weight nor a bias"
            )
        if tensor.dim() not in (2, 4) or 0 in tensor.shape:
            raise UserError(
                f"{name}: {shown} of shape {tuple(tensor.shape)} belongs neither to a convolution "
                "nor to a fully connected layer (fuse batch-norm first: it cannot be converted)"
            )
        if tensor.dim() == 4 and tensor.shape[2] != tensor.shape[3]:
            raise UserError(f"{name}: {shown} is a convolution that is not square")
        bias = biases.pop(prefix, None)
        if bias is not None and bias.shape != tensor.shape[:1]:
            raise UserError(f"{name}: the bias of {shown} is of another size than its outputs")
        found.append((shown, tensor, bias))
    if biases:
        raise UserError(f"{name}: {(next(iter(biases)) + 'bias')[:100]!r} has no weight")
    if not found or len(found) > _MAX_LAYERS:
        raise UserError(f"{name} holds {len(found)} layers; needed are 1 to {_MAX_LAYERS}")
    return found


def _chain(layers: Sequence[_Layer], size: int, name: str) -> list[_Layer]:
    """The layers in the order in which each takes what the one before gives."""
    rest = list(layers)
    ordered: list[_Layer] = []
    while rest:
        following = next((layer for layer in rest if layer[1].shape[1] == size), None)
        if following is None:
            others = ", ".join(f"{layer[0]} takes {layer[1].shape[1]}" for layer in rest[:3])
            raise UserError(
                f"{name} is no plain stack of layers: nothing takes the {size} outputs of "
                f"{ordered[-1][0] if ordered else 'the input'} ({others}); branches, such as those "
                "of dueling networks, cannot be converted"
            )
        rest.remove(following)
        ordered.append(following)
        size = following[1].shape[0]
    return ordered


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)


# --- Stable-Baselines3 ---------------------------------------------------------------------------


def _from_sb3(archive: Archive, image: tuple[int, int] | None, name: str) -> AnalogNetwork:
    """Reads the JSON and the tensors of a Stable-Baselines3 zip, never the pickles between."""
    data = parse_json(archive.read("data"), f"data in {name}")
    if not isinstance(data, dict):
        raise UserError(f"{name} is not a Stable-Baselines3 agent: its data is no table")
    module = str(_entry(data, "policy_class").get("__module__", ""))
    if "qrdqn" in module:
        raise UserError(f"{name} cannot be imported: {_SB3_KINDS['quantile_net']}")
    tensors = torch_state_dict(archive.read("policy.pth"), f"policy.pth in {name}")
    for key in tensors:
        reason = _SB3_KINDS.get(key.split(".")[0])
        if reason:
            raise UserError(f"{name} cannot be imported: {reason}")
    layers = {key: t for key, t in tensors.items() if not key.startswith("q_net_target.")}
    strange = [key for key in layers if not _SB3_LAYER.fullmatch(key)]
    if strange or not any(".cnn." in key for key in layers):
        raise UserError(
            f"{name} cannot be imported: it is no DQN of Stable-Baselines3 with CnnPolicy and its "
            f"NatureCNN ({repr(strange[0][:100]) if strange else 'it has no convolutions'})"
        )
    kwargs = _entry(data, "policy_kwargs")
    activation = str(kwargs.get("activation_fn", "ReLU"))
    has_hidden = sum(key.startswith("q_net.q_net.") for key in layers) > 2
    if has_hidden and not re.search(r"\bReLU\b", activation):
        raise UserError(
            f"{name} cannot be imported: its hidden layers have activation_fn="
            f"{activation[:100]!r}, and spikes stand for ReLU's"
        )
    channels = next(t.shape[1] for key, t in layers.items() if t.dim() == 4)
    shape = _entry(data, "observation_space").get("_shape")
    if image is None and isinstance(shape, list) and len(shape) == 3:
        seen = shape[1:] if shape[0] == channels else shape[:2]
        if all(type(n) is int and 0 < n < 10_000 for n in seen):
            image = (seen[0], seen[1])
    raw = kwargs.get("normalize_images", True) is False
    # NatureCNN's strides are always these
    return from_state_dict(layers, image, (4, 2, 1), 255.0 if raw else 1.0, name)


def _entry(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What stands as plain JSON beside a pickle; pickles are never looked into."""
    entry = data.get(key)
    return entry if isinstance(entry, dict) else {}
