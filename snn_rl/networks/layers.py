"""One description of a layer stack, and its two forms: analog (ReLU) and spiking (LIF)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.encoding import ENCODINGS
from snn_rl.lif import LIF
from snn_rl.surrogate import SURROGATES


@dataclass(frozen=True)
class Conv:
    """A square convolution followed by an activation."""

    channels: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class Dense:
    """A fully connected layer followed by an activation."""

    units: int


@dataclass(frozen=True)
class NetworkSpec:
    """A layer stack: convolutions, then dense layers, then a linear head without activation.

    Attributes:
        input_shape: (channels, height, width) of one image.
        layers: Hidden layers from input to output.
        outputs: Units of the head (number of actions, or of classes).
        bias: Whether every layer, the head included, has a bias.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Conv | Dense, ...]
    outputs: int
    bias: bool = False

    def to_dict(self) -> dict[str, Any]:
        """This description as plain JSON types."""
        return {
            "input_shape": list(self.input_shape),
            "layers": [{"kind": type(x).__name__.lower(), **asdict(x)} for x in self.layers],
            "outputs": self.outputs,
            "bias": self.bias,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkSpec":
        """The inverse of `to_dict`.

        Raises:
            ValueError: `data` is not such a description.
        """
        kinds: dict[str, type[Conv] | type[Dense]] = {"conv": Conv, "dense": Dense}
        try:
            layers = []
            for entry in data["layers"]:
                fields = {key: int(value) for key, value in entry.items() if key != "kind"}
                layers.append(kinds[entry["kind"]](**fields))
            channels, height, width = (int(n) for n in data["input_shape"])
            shape = (channels, height, width)
            return cls(shape, tuple(layers), int(data["outputs"]), bool(data["bias"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a network description ({error!r})") from error

    def shapes(self) -> list[tuple[int, ...]]:
        """Output shape of every hidden layer, without the batch dimension.

        Raises:
            ValueError: An image is too small for the stack, or a convolution follows a dense layer.
        """
        shape: tuple[int, ...] = self.input_shape
        result: list[tuple[int, ...]] = []
        for i, layer in enumerate(self.layers):
            if min(asdict(layer).values()) < 1:
                raise ValueError(f"layer {i}: every number in {layer} must be at least 1")
            if isinstance(layer, Dense):
                shape = (layer.units,)
            elif len(shape) != 3:
                raise ValueError(f"layer {i} is a convolution behind a dense layer")
            else:
                height, width = ((n - layer.kernel) // layer.stride + 1 for n in shape[1:])
                if min(height, width) < 1:
                    raise ValueError(
                        f"images of {self.input_shape} are too small for layer {i}, "
                        f"a {layer.kernel}x{layer.kernel} convolution"
                    )
                shape = (layer.channels, height, width)
            result.append(shape)
        return result

    def names(self) -> list[str]:
        """A short name for every weight layer: conv1, conv2, ..., fc1, ..., head."""
        counts = {"conv": 0, "fc": 0}
        names = []
        for layer in self.layers:
            kind = "conv" if isinstance(layer, Conv) else "fc"
            counts[kind] += 1
            names.append(f"{kind}{counts[kind]}")
        return [*names, "head"]

    def build_synapses(self) -> tuple[nn.ModuleList, nn.Linear]:
        """Freshly initialised weight layers: the hidden ones, and the head."""
        shape: tuple[int, ...] = self.input_shape
        synapses = nn.ModuleList()
        for layer, out in zip(self.layers, self.shapes(), strict=True):
            if isinstance(layer, Conv):
                synapses.append(
                    nn.Conv2d(shape[0], layer.channels, layer.kernel, layer.stride, bias=self.bias)
                )
            else:
                fan_in = int(torch.Size(shape).numel())
                synapses.append(nn.Linear(fan_in, layer.units, bias=self.bias))
            shape = out
        head = nn.Linear(int(torch.Size(shape).numel()), self.outputs, bias=self.bias)
        return synapses, head


# What a network remembers from image to image: of every hidden layer, [N, ...]; [] is nothing
State = list[Tensor]


def clear(state: State, ended: Tensor) -> State:
    """Empties the membranes of the games that have ended.

    Args:
        state: Of N games.
        ended: [N], true where the next image is another game's first.
    """
    keep = (~ended).float()
    return [rest * keep.view(-1, *[1] * (rest.dim() - 1)) for rest in state]


class Network(nn.Module):
    """What both forms share: the description and the weight layers, under the same names.

    Args:
        spec: The description.
    """

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        self.synapses, self.head = spec.build_synapses()

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output [N, outputs] and the hidden layers' activity, each [T, N, ...].

        Args:
            x: Images [N, channels, height, width], float.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, channels, height, width], float, to outputs [N, outputs]."""
        return self.activity(x)[0]

    def initial_state(self, count: int) -> State:
        """What the network remembers of nothing: empty membranes for `count` games.

        A network that does not carry its membranes from image to image has no state: [].
        """
        return []

    def step(self, x: Tensor, state: State) -> tuple[Tensor, list[Tensor], State]:
        """One decision of a network that may remember the images before.

        Args:
            x: Images [N, channels, height, width], float.
            state: From `initial_state`, or from the step before.

        Returns:
            Outputs [N, outputs], the hidden layers' activity, each [T, N, ...], and the new state.
        """
        return *self.activity(x), state


class AnalogNetwork(Network):
    """The ordinary network: ReLU after every hidden layer."""

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; T = 1 and the activity is the ReLU's output."""
        layers = []
        for layer in self.synapses:
            x = F.relu(_apply(layer, x))
            layers.append(x.unsqueeze(0))
        return _outputs(self.head, x.flatten(1)), layers


class SpikingNetwork(Network):
    """The spiking network: LIF neurons after every hidden layer, an integrating head.

    Time is folded into the batch for every weight layer; under direct encoding the first layer's
    current is computed once and used at every timestep. The head integrates without firing and
    without leak: its output is head(mean over t of the spikes), the bias once, so that outputs
    keep their scale when T changes ([IIR] eq. 7 divided by T).

    Args:
        spec: The description.
        timesteps: T >= 1.
        surrogate: A name in `snn_rl.surrogate.SURROGATES`.
        encoding: A name in `snn_rl.encoding.ENCODINGS`.
        carry_state: Membranes live on from image to image, one timestep each (T = 1): what the
            network remembers takes the place of a frame stack. See `step` and `unroll`; `forward`
            is a first image's decision, from empty membranes.
    """

    neurons: Sequence[LIF]

    def __init__(
        self,
        spec: NetworkSpec,
        timesteps: int,
        surrogate: str = "linear",
        encoding: str = "direct",
        carry_state: bool = False,
    ):
        super().__init__(spec)
        if not isinstance(timesteps, int) or timesteps < 1:
            raise ValueError(f"timesteps must be a whole number, at least 1, not {timesteps}")
        if surrogate not in SURROGATES:
            raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, not {surrogate}")
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding}")
        if carry_state and timesteps != 1:
            raise ValueError(f"carry_state is one timestep per image, not timesteps={timesteps}")
        if carry_state and encoding != "direct":
            raise ValueError(f"carry_state goes with direct encoding, not with {encoding}")
        self.timesteps = timesteps
        self.carry_state = carry_state
        self.surrogate = surrogate
        self.encoding = encoding
        # a ModuleList does not say what it holds
        self.neurons = nn.ModuleList(  # type: ignore[assignment]
            LIF(surrogate=surrogate) for _ in spec.layers
        )
        if timesteps == 1 and not carry_state:
            # without a timestep before it there is nothing to leak, and no gradient to train it by
            for neuron in self.neurons:
                neuron.leak.requires_grad_(False)

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; the activity is the spikes of T timesteps."""
        spikes = ENCODINGS[self.encoding](x, self.timesteps)
        layers: list[Tensor] = []
        for layer, neuron in zip(self.synapses, self.neurons, strict=True):
            spikes = neuron(self.current(layer, spikes))[0]
            layers.append(spikes)
        return _outputs(self.head, spikes.flatten(2).mean(0)), layers

    def initial_state(self, count: int) -> State:
        """See `Network.initial_state`."""
        if not self.carry_state:
            return []
        device = self.head.weight.device
        return [torch.zeros(count, *shape, device=device) for shape in self.spec.shapes()]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, list[Tensor], State]:
        """See `Network.step`."""
        if not self.carry_state:
            return super().step(x, state)
        outputs, layers, state = self.unroll(x.unsqueeze(0), state)
        return outputs[0], layers, state

    def unroll(
        self, x: Tensor, state: State, keep: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], State]:
        """Consecutive images, one timestep each, by a network that carries its state.

        Args:
            x: [images, N, channels, height, width], float.
            state: The membranes before the first image.
            keep: [images, N]; zero where an image is the first of another episode, see `lif`.

        Returns:
            Outputs [images, N, outputs], the hidden layers' spikes, each [images, N, ...], and the
            membranes after the last image.
        """
        steps, layers, rests = x, [], []
        for layer, neuron, rest in zip(self.synapses, self.neurons, state, strict=True):
            folded = _apply(layer, steps.flatten(0, 1)).float()
            steps, after = neuron(folded.unflatten(0, x.shape[:2]), rest, keep)
            layers.append(steps)
            rests.append(after)
        outputs = _outputs(self.head, steps.flatten(0, 1).flatten(1))
        return outputs.unflatten(0, x.shape[:2]), layers, rests

    def current(self, layer: nn.Module, spikes: Tensor) -> Tensor:
        """Input current [T, N, ...] that spikes [T or 1, N, ...] cause behind a weight layer.

        A single leading entry is an input that does not change with time (direct encoding).
        """
        folded = _apply(layer, spikes.flatten(0, 1)).float()
        current: Tensor = folded.unflatten(0, spikes.shape[:2])
        return current.expand(self.timesteps, *current.shape[1:])

    def clamp_(self) -> None:
        """Puts thresholds and leaks back into their ranges, see `LIF.clamp_`."""
        for neuron in self.neurons:
            neuron.clamp_()


def _outputs(head: nn.Module, x: Tensor) -> Tensor:
    """The head in float32 even under autocast.

    bfloat16 would round Q-values that differ by less than a hundredth to the same number.
    """
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = head(x.float())
    return out


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
    return out
