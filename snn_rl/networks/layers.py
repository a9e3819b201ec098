"""One description of a layer stack, and its two forms: analog (ReLU) and spiking (LIF)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.encoding import ENCODINGS
from snn_rl.lif import LIF, MIN_THRESHOLD, Memory
from snn_rl.networks.spec import AvgPool, Block, Connection, Conv, Dense, Dropout, NetworkSpec
from snn_rl.surrogate import NAMES, TIMED

# Turns the current of hidden layer k, [T or 1, N, ...], into its activity, [T, N, ...]
Fire = Callable[[int, Tensor], Tensor]

# What a network remembers from image to image: of every hidden layer, [N, ...]; [] is nothing
State = list[Tensor]

# Where clips start. [ULL] does not print it; He-initialized layers pass on activities of about 1,
# so that this one cuts off hardly anything before training has moved it.
INITIAL_CLIP = 4.0
# Dropout masks, by the place of the `Dropout` in the description
Masks = dict[int, Tensor]

# Timesteps that inference holds in memory at a time
WINDOW = 25


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
        """Any shape; in the weight's precision, which autocast does not see to here."""
        return x.to(self.weight.dtype) * self.weight


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

    def propagate(self, x: Tensor, fire: Fire, masks: Masks | None = None) -> Tensor:
        """Carries activity through all layers up to the head's input.

        Args:
            x: [T or 1, N, channels, height, width]; a single leading entry is an input that does
                not change with time. Time is folded into the batch for every weight layer.
            fire: What the neurons do.
            masks: Dropout masks to use; those that it lacks are drawn and put there.

        Returns:
            [T, N, ...].
        """
        masks = {} if masks is None else masks
        synapses = iter(self.synapses)
        neurons = 0
        for place, layer in enumerate(self.spec.layers):
            if isinstance(layer, Conv | Dense):
                x = fire(neurons, _folded(next(synapses), x))
                neurons += 1
            elif isinstance(layer, Block):
                inner = fire(neurons, _folded(next(synapses), x))
                current = _folded(next(synapses), inner)
                x = fire(neurons + 1, current + _folded(next(synapses), x))
                neurons += 2
            elif isinstance(layer, Dropout):
                x = self._drop(x, place, masks)
            elif isinstance(layer, AvgPool):
                x = F.avg_pool2d(x.flatten(0, 1), layer.kernel).unflatten(0, x.shape[:2])
            else:
                x = F.max_pool2d(x.flatten(0, 1), layer.kernel).unflatten(0, x.shape[:2])
        return x

    def _drop(self, x: Tensor, place: int, masks: Masks) -> Tensor:
        if not self.training or not self.dropout:
            return x
        if place not in masks:
            masks[place] = F.dropout(torch.ones_like(x[:1]), self.dropout)
        return x * masks[place]

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

    def count(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output [N, outputs] and what `activity` comes to over its timesteps, each [N, ...].

        Of a spiking network these are numbers of spikes, of an analog one ones where it is active.

        Args:
            x: Images [N, channels, height, width], float.
        """
        outputs, layers = self.activity(x)
        return outputs, [(layer != 0).float().sum(0) for layer in layers]

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

    def clamp_(self) -> None:
        """Puts parameters back into their ranges; call it after every optimizer step."""


class AnalogNetwork(Network):
    """The ordinary network: ReLU after every hidden layer, clipped where the spec says so.

    Attributes:
        mu: With a clip, the largest activity of every hidden layer, [hidden layers]; else None.
    """

    mu: nn.Parameter | None

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        count = len(spec.shapes())
        self.mu = nn.Parameter(torch.full((count,), INITIAL_CLIP)) if spec.clip else None

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; T = 1 and the activity is the ReLU's output."""
        layers = []

        def fire(index: int, current: Tensor) -> Tensor:
            activity = self.fire(index, current)
            layers.append(activity)
            return activity

        last = self.propagate(x.unsqueeze(0), fire)
        return _outputs(self.head, last[0].flatten(1)), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Activity of hidden layer `index`: clip(current, 0, mu), or the plain ReLU.

        Source: [ULL] eq. 1. Where a neuron is clipped, the gradient goes to mu instead of to the
        current.

        Args:
            index: From 0.
            current: Any shape.
        """
        activity = F.relu(current)
        return activity if self.mu is None else activity.clamp(max=self.mu[index])

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keeps the clips above zero: at or below it nothing of a layer would be left."""
        if self.mu is not None:
            self.mu.clamp_(min=MIN_THRESHOLD)


class SpikingNetwork(Network):
    """The spiking network: LIF neurons after every hidden layer, an integrating head.

    Time is folded into the batch for every weight layer; under direct encoding the first layer's
    current is computed once and used at every timestep. The head integrates without firing and
    without leak: its output is head(mean over t of the spikes), the bias once, so that outputs
    keep their scale when T changes ([IIR] eq. 7 divided by T).

    Args:
        spec: The description.
        timesteps: T >= 1.
        surrogate: A name in `snn_rl.surrogate.NAMES`.
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
        if spec.clip:
            raise ValueError("a clip has no place in a spiking network: its thresholds clip")
        super().__init__(spec)
        if not isinstance(timesteps, int) or timesteps < 1:
            raise ValueError(f"timesteps must be a whole number, at least 1, not {timesteps}")
        if surrogate not in NAMES:
            raise ValueError(f"surrogate must be one of {', '.join(NAMES)}, not {surrogate}")
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding}")
        if carry_state and timesteps != 1:
            raise ValueError(f"carry_state is one timestep per image, not timesteps={timesteps}")
        if carry_state and surrogate in TIMED:
            raise ValueError(f"carry_state remembers no spike times, which {surrogate} needs")
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
        mean = last.flatten(2).mean(0, dtype=self.head.weight.dtype)
        return _outputs(self.head, mean), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Spikes [T, N, ...] of hidden layer `index`, from empty membranes.

        Args:
            index: From 0.
            current: [T or 1, N, ...]; a single one flows at every timestep.
        """
        neuron = self.neurons[index]
        current = neuron.prepared(current)  # before it is expanded: once, not T times
        spikes: Tensor = neuron(current.expand(self.timesteps, *current.shape[1:]))[0]
        return spikes

    def windows(self, x: Tensor, size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """`activity` in windows of a few timesteps, in bounded memory however large T is.

        Membranes, the head's sum and dropout masks go on from window to window; their history
        does not, so that gradients reach back to the beginning of a window and no further:
        truncated BPTT ([STDB] section 2.2). The head's own weights see the spikes of all timesteps
        so far.

        Args:
            x: Images [N, channels, height, width], float.
            size: Timesteps of a window; the last one has what is left.

        Yields:
            The output by the timesteps so far, which is that of the whole after the last window,
            and the window's spikes of every hidden layer, [timesteps of the window, N, ...].
        """
        memories: list[Memory | None] = [None] * len(self.neurons)
        masks: Masks = {}
        total = torch.zeros((), device=x.device)
        for start in range(0, self.timesteps, size):
            steps = min(size, self.timesteps - start)
            last, layers, after = self._window(x, steps, memories, masks)
            total = total + last.flatten(2).sum(0)
            yield _outputs(self.head, total / (start + steps)), layers
            total = total.detach()
            memories = [memory.detach() for memory in after]

    def _window(
        self, x: Tensor, steps: int, memories: Sequence[Memory | None], masks: Masks
    ) -> tuple[Tensor, list[Tensor], list[Memory]]:
        """The head's input, the spikes of every layer, and what the neurons remember of it."""
        layers: list[Tensor] = []
        after: list[Memory] = []

        def fire(index: int, current: Tensor) -> Tensor:
            spikes, memory = self.fire_window(index, current, steps, memories[index])
            layers.append(spikes)
            after.append(memory)
            return spikes

        last = self.propagate(ENCODINGS[self.encoding](x, steps), fire, masks)
        return last, layers, after

    def fire_window(
        self, index: int, current: Tensor, steps: int, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        """`fire` for some of the timesteps.

        Args:
            index: See `fire`.
            current: See `fire`.
            steps: Timesteps of the window.
            memory: Of this layer's neurons from the window before; None in the first.
        """
        neuron = self.neurons[index]
        full = current.to(neuron.v_threshold.dtype)
        return neuron.window(full.expand(steps, *current.shape[1:]), memory)

    def count(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.count`; in memory for a few timesteps."""
        counts: list[Tensor] = []
        for so_far, layers in self.windows(x, WINDOW):
            outputs, now = so_far, [layer.sum(0) for layer in layers]
            counts = [a + b for a, b in zip(counts, now, strict=True)] if counts else now
        return outputs, counts

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
        layers: list[Tensor] = []
        rests = []

        def fire(index: int, current: Tensor) -> Tensor:
            neuron = self.neurons[index]
            spikes, rest = neuron(current.to(neuron.v_threshold.dtype), state[index], keep)
            layers.append(spikes)
            rests.append(rest)
            return layers[-1]

        last = self.propagate(x, fire)
        outputs = _outputs(self.head, last.flatten(0, 1).flatten(1))
        return outputs.unflatten(0, x.shape[:2]), layers, rests

    def clamp_(self) -> None:
        """Puts thresholds and leaks back into their ranges, see `LIF.clamp_`."""
        for neuron in self.neurons:
            neuron.clamp_()


def _outputs(head: nn.Linear, x: Tensor) -> Tensor:
    """The head in full precision even under autocast.

    bfloat16 would round Q-values that differ by less than a hundredth to the same number.
    """
    out: Tensor
    if not torch.is_autocast_enabled(x.device.type):
        return head(x.to(head.weight.dtype))  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        out = head(x.to(head.weight.dtype))
    return out


def _folded(layer: nn.Module, x: Tensor) -> Tensor:
    """Current [T, N, ...] that activity [T, N, ...] causes behind a weight layer."""
    folded = x.flatten(0, 1)
    out: Tensor = layer(folded.flatten(1) if isinstance(layer, nn.Linear) else folded)
    current: Tensor = out.unflatten(0, x.shape[:2])
    return current
