"""The spiking network: a layer stack of LIF neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.lif import LIF, Memory
from snn_rl.core.networks.base import WINDOW, Masks, Network, State, head_outputs
from snn_rl.core.networks.spec import NetworkSpec
from snn_rl.core.surrogate import SpikeTime, get_surrogate

EXACT_REQUIRES = (
    "exact requires timesteps=1, encoding=direct, no carry_state, and only convolutions and dense "
    "layers"
)


@dataclass(frozen=True)
class SpikingOptions:
    """Options of a spiking network.

    Attributes:
        timesteps: T >= 1.
        surrogate: Surrogate gradient: a key of `snn_rl.core.surrogate.SURROGATES`, or
            `module:function`.
        encoding: Input encoding: a key of `snn_rl.core.encoding.ENCODINGS`.
        carry_state: Whether membranes carry over from image to image, with one timestep per image
            (T = 1). The carried membranes replace a frame stack.
        exact: Whether all weights are on an integer grid, see
            `snn_rl.core.conversion.integer_grid`. Requires T = 1.

    Raises:
        ValueError: An option is invalid, or two options exclude each other.
    """

    timesteps: int = 1
    surrogate: str = "linear"
    encoding: str = "direct"
    carry_state: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.timesteps, int) or self.timesteps < 1:
            raise ValueError(f"timesteps must be an integer of at least 1, not {self.timesteps}")
        surrogate = get_surrogate(self.surrogate)
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding}")
        if self.carry_state and self.timesteps != 1:
            raise ValueError(f"carry_state requires timesteps=1, not {self.timesteps}")
        if self.carry_state and isinstance(surrogate, SpikeTime):
            raise ValueError(
                f"carry_state does not carry the spike times that surrogate={self.surrogate} needs"
            )
        if self.carry_state and self.encoding != "direct":
            raise ValueError(f"carry_state requires encoding=direct, not {self.encoding}")
        if self.exact and (self.timesteps != 1 or self.carry_state or self.encoding != "direct"):
            raise ValueError(EXACT_REQUIRES)


class SpikingNetwork(Network):
    """A network of LIF neurons with an integrating head.

    Time is folded into the batch for every weight layer. Under direct encoding the first layer's
    current is computed once and used at every timestep. The head integrates without firing and
    without leak: its output is head(mean over t of the spikes), with the bias added once, so that
    the outputs keep their scale when T changes ([IIR] eq. 7 divided by T).

    With `carry_state`, `step` and `unroll` pass the membranes on, and `forward` decides on the
    first image of an episode, with empty membranes.

    Args:
        spec: Layer stack, without batch normalization and clips.
        options: Timesteps, surrogate, encoding, and what else distinguishes the spiking form.

    Raises:
        ValueError: The layer stack does not suit a spiking network or the options.
    """

    neurons: Sequence[LIF]

    def __init__(self, spec: NetworkSpec, options: SpikingOptions):
        if spec.batch_norm:
            raise ValueError("a spiking network has no batch normalization: fuse it first")
        if spec.clip:
            raise ValueError("a spiking network has no clips: its thresholds replace them")
        if options.exact and not spec.is_plain:
            raise ValueError(EXACT_REQUIRES)
        super().__init__(spec)
        self.options = options
        # a ModuleList does not say what it holds
        self.neurons = nn.ModuleList(  # type: ignore[assignment]
            LIF(surrogate=options.surrogate) for _ in spec.shapes()
        )
        if options.timesteps == 1 and not options.carry_state:
            # a single timestep never leaks, so the leak has no gradient
            for neuron in self.neurons:
                neuron.leak.requires_grad_(False)

    @property
    def timesteps(self) -> int:
        """Number of timesteps T."""
        return self.options.timesteps

    @property
    def surrogate(self) -> str:
        """Name of the surrogate gradient."""
        return self.options.surrogate

    @property
    def encoding(self) -> str:
        """Name of the input encoding."""
        return self.options.encoding

    @property
    def carry_state(self) -> bool:
        """Whether membranes carry over from image to image."""
        return self.options.carry_state

    @property
    def exact(self) -> bool:
        """Whether the network is on the integer grid and takes raw pixels from 0 to 255."""
        return self.options.exact

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; the activity is the spikes of T timesteps."""
        layers: list[Tensor] = []

        def fire(index: int, current: Tensor) -> Tensor:
            spikes = self.fire(index, current)
            layers.append(spikes)
            return spikes

        last = self.propagate(ENCODINGS[self.encoding](x, self.timesteps), fire)
        mean = last.flatten(2).mean(0, dtype=self.head.weight.dtype)
        return head_outputs(self.head, mean), layers

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
            yield head_outputs(self.head, total / (start + steps)), layers
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
        outputs = head_outputs(self.head, last.flatten(0, 1).flatten(1))
        return outputs.unflatten(0, x.shape[:2]), layers, rests

    def clamp_(self) -> None:
        """Puts thresholds and leaks back into their ranges, see `LIF.clamp_`."""
        for neuron in self.neurons:
            neuron.clamp_()
