"""One description of a layer stack, and its two forms: analog (ReLU) and spiking (LIF)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.encoding import ENCODINGS
from snn_rl.lif import LIF
from snn_rl.networks.spec import AvgPool, Block, Connection, Conv, Dense, Dropout, NetworkSpec
from snn_rl.surrogate import SURROGATES

# Turns the current of hidden layer k, [T or 1, N, ...], into its activity, [T, N, ...]
Fire = Callable[[int, Tensor], Tensor]

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


class Scale(nn.Module):
    """The identity times a number: 1, until conversion folds a threshold into it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * self.weight


def _synapse(connection: Connection, bias: bool, batch_norm: bool) -> nn.Module:
    layer, inputs = connection.layer, connection.input_shape
    if isinstance(layer, Dense):
        return nn.Linear(int(torch.Size(inputs).numel()), layer.units, bias=bias)
    if not isinstance(layer, Conv):
        return Scale()
    shape = (inputs[0], layer.channels, layer.kernel, layer.stride, layer.padding)
    if batch_norm:
        return nn.Sequential(nn.Conv2d(*shape, bias=False), nn.BatchNorm2d(layer.channels))
    return nn.Conv2d(*shape, bias=bias)


class Network(nn.Module):
    """What both forms share: the description and the weight layers, under the same names.

    Args:
        spec: The description.

    Attributes:
        synapses: Every weight layer but the head, in the order of `NetworkSpec.connections`.
        head: The last weight layer.
        exact: It is on the grid of `snn_rl.exact`, and takes raw pixels from 0 to 255.
        dropout: Probability with which activity is dropped at the description's `Dropout`s, in
            training mode. One mask serves all timesteps ([STDB] section 4, [IIR] A.2.2).
    """

    head: nn.Linear
    exact = False

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        self.dropout = 0.0
        self.connections = spec.connections()
        *hidden, head = (_synapse(c, spec.bias, spec.batch_norm) for c in self.connections)
        self.synapses = nn.ModuleList(hidden)
        # the head is Dense, and what is built of that is an nn.Linear
        self.head = head  # type: ignore[assignment]

    def propagate(self, x: Tensor, fire: Fire) -> Tensor:
        """Carries activity through all layers up to the head's input.

        Args:
            x: [T or 1, N, channels, height, width]; a single leading entry is an input that does
                not change with time. Time is folded into the batch for every weight layer.
            fire: What the neurons do.

        Returns:
            [T, N, ...].
        """
        synapses = iter(self.synapses)
        neurons = 0
        for layer in self.spec.layers:
            if isinstance(layer, Conv | Dense):
                x = fire(neurons, _folded(next(synapses), x))
                neurons += 1
            elif isinstance(layer, Block):
                inner = fire(neurons, _folded(next(synapses), x))
                current = _folded(next(synapses), inner)
                x = fire(neurons + 1, current + _folded(next(synapses), x))
                neurons += 2
            elif isinstance(layer, Dropout):
                x = self._drop(x)
            elif isinstance(layer, AvgPool):
                x = F.avg_pool2d(x.flatten(0, 1), layer.kernel).unflatten(0, x.shape[:2])
            else:
                x = F.max_pool2d(x.flatten(0, 1), layer.kernel).unflatten(0, x.shape[:2])
        return x

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropout:
            return x
        return x * F.dropout(torch.ones_like(x[:1]), self.dropout)

    def images(self, pixels: Tensor) -> Tensor:
        """Observations as the network takes them: float in [0, 1] (exact: to 255), channels_last.

        Args:
            pixels: [N, channels or more, height, width], uint8, the newest frame last; the newest
                are taken.
        """
        # the layout first, while a pixel is still one byte
        x = pixels[:, -self.spec.input_shape[0] :].contiguous(memory_format=torch.channels_last)
        return x.float() if self.exact else x.float().div_(255.0)

    def followers(self, index: int) -> list[nn.Module]:
        """The weight layers that the activity of hidden layer `index` enters."""
        layers = [*self.synapses, self.head]
        pairs = zip(layers, self.connections, strict=True)
        return [layer for layer, connection in pairs if connection.source == index]

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

        def fire(_: int, current: Tensor) -> Tensor:
            activity = F.relu(current)
            layers.append(activity)
            return activity

        last = self.propagate(x.unsqueeze(0), fire)
        return _outputs(self.head, last[0].flatten(1)), layers


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
        exact: See `Network`; T = 1.
    """

    neurons: Sequence[LIF]

    def __init__(
        self,
        spec: NetworkSpec,
        timesteps: int,
        surrogate: str = "linear",
        encoding: str = "direct",
        carry_state: bool = False,
        exact: bool = False,
    ):
        if spec.batch_norm:
            raise ValueError("batch-norm has no place in a spiking network: fuse it first")
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
        if exact and (timesteps != 1 or carry_state or encoding != "direct" or not spec.is_plain):
            raise ValueError(
                "exact is one timestep of convolutions and dense layers under direct encoding, "
                "without carry_state"
            )
        self.timesteps = timesteps
        self.carry_state = carry_state
        self.exact = exact
        self.surrogate = surrogate
        self.encoding = encoding
        # a ModuleList does not say what it holds
        self.neurons = nn.ModuleList(  # type: ignore[assignment]
            LIF(surrogate=surrogate) for _ in spec.shapes()
        )
        if timesteps == 1 and not carry_state:
            # without a timestep before it there is nothing to leak, and no gradient to train it by
            for neuron in self.neurons:
                neuron.leak.requires_grad_(False)

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; the activity is the spikes of T timesteps."""
        layers: list[Tensor] = []

        def fire(index: int, current: Tensor) -> Tensor:
            spikes = self.fire(index, current)
            layers.append(spikes)
            return spikes

        last = self.propagate(ENCODINGS[self.encoding](x, self.timesteps), fire)
        return _outputs(self.head, last.flatten(2).mean(0)), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Spikes [T, N, ...] of hidden layer `index`, from empty membranes.

        Args:
            index: From 0.
            current: [T or 1, N, ...]; a single one flows at every timestep.
        """
        current = current.float().expand(self.timesteps, *current.shape[1:])
        spikes: Tensor = self.neurons[index](current)[0]
        return spikes

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
        layers, rests = [], []

        def fire(index: int, current: Tensor) -> Tensor:
            spikes: Tensor
            spikes, rest = self.neurons[index](current.float(), state[index], keep)
            layers.append(spikes)
            rests.append(rest)
            return spikes

        last = self.propagate(x, fire)
        outputs = _outputs(self.head, last.flatten(0, 1).flatten(1))
        return outputs.unflatten(0, x.shape[:2]), layers, rests

    def clamp_(self) -> None:
        """Puts thresholds and leaks back into their ranges, see `LIF.clamp_`."""
        for neuron in self.neurons:
            neuron.clamp_()


def _outputs(head: nn.Module, x: Tensor) -> Tensor:
    """The head in float32 even under autocast.

    bfloat16 would round Q-values that differ by less than a hundredth to the same number.
    """
    out: Tensor
    if not torch.is_autocast_enabled(x.device.type):
        return head(x.float())  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        out = head(x.float())
    return out


def _folded(layer: nn.Module, x: Tensor) -> Tensor:
    """Current [T, N, ...] that activity [T, N, ...] causes behind a weight layer."""
    folded = x.flatten(0, 1)
    out: Tensor = layer(folded.flatten(1) if isinstance(layer, nn.Linear) else folded)
    current: Tensor = out.unflatten(0, x.shape[:2])
    return current
