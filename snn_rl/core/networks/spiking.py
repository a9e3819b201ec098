"""Spiking network: a layer stack with LIF neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.lif import LIF, NeuronState
from snn_rl.core.networks.base import WINDOW, Masks, Network, State, head_outputs
from snn_rl.core.networks.spec import NetworkSpec
from snn_rl.core.surrogate import SpikeTime, get_surrogate

MAX_TIMESTEPS = 10_000


@dataclass(frozen=True)
class SpikingOptions:
    """Options of a spiking network.

    Attributes:
        timesteps: Number of timesteps T, from 1 to `MAX_TIMESTEPS`.
        surrogate: Surrogate gradient: a key of `snn_rl.core.surrogate.SURROGATES`, or
            `module:function`.
        encoding: Input encoding: a key of `snn_rl.core.encoding.ENCODINGS`.
        carry_state: True if membrane potentials are carried from image to image, with one timestep
            per image (T = 1). The carried potentials replace a frame stack.
        exact: True if the weights are on an integer grid and the inputs are raw pixels, see
            `snn_rl.core.conversion.integer_grid`. Requires T = 1.
    """

    timesteps: int = 1
    surrogate: str = "linear"
    encoding: str = "direct"
    carry_state: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        for each in fields(self):
            if not isinstance(value := getattr(self, each.name), each.type):  # type: ignore[arg-type]
                raise ValueError(f"{each.name}={value!r}: must be {each.type.__name__}")  # type: ignore[union-attr]
        one_direct = self.timesteps == 1 and self.encoding == "direct"
        if not 1 <= self.timesteps <= MAX_TIMESTEPS:
            raise ValueError(f"timesteps={self.timesteps}: must be from 1 to {MAX_TIMESTEPS}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding={self.encoding}: must be one of {', '.join(ENCODINGS)}")
        if self.carry_state and not one_direct:
            raise ValueError("carry_state requires timesteps=1 and encoding=direct")
        if isinstance(get_surrogate(self.surrogate), SpikeTime) and self.carry_state:
            raise ValueError(f"carry_state cannot be combined with surrogate={self.surrogate}")
        if self.exact and (self.carry_state or not one_direct):
            raise ValueError("exact requires timesteps=1, encoding=direct, and no carry_state")


class SpikingNetwork(Network):
    """Network of LIF neurons with an integrating head.

    Time is folded into the batch for every weight layer. With direct encoding, the first layer's
    current is computed once and used at every timestep. The head integrates without firing and
    without leak. Its output is head(mean over t of the spikes), with the bias added once, so the
    outputs keep their scale when T changes ([IIR] eq. 7 divided by T).

    With `carry_state`, `step` and `unroll` carry membrane potentials. `forward` treats each image
    as the first of an episode, with zero membrane potentials.

    Args:
        spec: Layer stack without batch normalization or clipped ReLUs.
        options: Options of the spiking network.

    Raises:
        ValueError: The layer stack is incompatible with a spiking network or with the options.
    """

    neurons: Sequence[LIF]

    def __init__(self, spec: NetworkSpec, options: SpikingOptions):
        if spec.batch_norm:
            raise ValueError("a spiking network has no batch normalization: fuse it first")
        if spec.clip:
            raise ValueError("a spiking network has no clipped ReLUs: thresholds replace them")
        if options.exact and not spec.is_plain:
            raise ValueError("exact requires a network of convolutions and dense layers only")
        super().__init__(spec)
        self.options = options
        self.neurons = nn.ModuleList(  # type: ignore[assignment]
            LIF(surrogate=options.surrogate) for _ in spec.shapes()
        )
        if options.timesteps == 1 and not options.carry_state:
            for neuron in self.neurons:
                neuron.leak.requires_grad_(False)  # a single timestep never leaks

    @property
    def timesteps(self) -> int:
        """Number of timesteps T."""
        return self.options.timesteps

    @property
    def exact(self) -> bool:
        """True if the network is on the integer grid and takes raw pixels from 0 to 255."""
        return self.options.exact

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs and the spikes of all timesteps, see `Network.activity`."""
        last, layers, _ = self._simulate(self._encode(x, self.timesteps), self.timesteps)
        mean = last.flatten(2).mean(0, dtype=self.head.weight.dtype)
        return head_outputs(self.head, mean), layers

    def windows(self, x: Tensor, size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Computes `activity` in windows of timesteps, in bounded memory for any T.

        Membrane potentials, the head's sum, and dropout masks carry over from window to window.
        Gradients are truncated at the beginning of each window ([STDB] section 2.2). The gradient
        of the head's weights includes the spikes of all timesteps so far.

        Args:
            x: Images [N, channels, height, width], float.
            size: Number of timesteps per window. The last window may be shorter.

        Yields:
            The output [N, outputs] after the timesteps so far, and the window's spikes of every
            hidden layer, [timesteps of the window, N, ...].
        """
        states = [NeuronState()] * len(self.neurons)
        masks: Masks = {}
        total = torch.zeros((), device=x.device)
        for start in range(0, self.timesteps, size):
            steps = min(size, self.timesteps - start)
            last, layers, states = self._simulate(self._encode(x, steps), steps, states, masks)
            total = total + last.flatten(2).sum(0)
            yield head_outputs(self.head, total / (start + steps)), layers
            total = total.detach()
            states = [state.detach() for state in states]

    def count(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Counts spikes in windows of a few timesteps, see `Network.count`."""
        counts: list[Tensor] = []
        for so_far, layers in self.windows(x, WINDOW):
            outputs, now = so_far, [layer.sum(0) for layer in layers]
            counts = [a + b for a, b in zip(counts, now, strict=True)] if counts else now
        return outputs, counts

    def initial_state(self, count: int) -> State:
        """Returns the initial membrane potentials, see `Network.initial_state`."""
        if not self.options.carry_state:
            return []
        device = self.head.weight.device
        return [torch.zeros(count, *shape, device=device) for shape in self.spec.shapes()]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, list[Tensor], State]:
        """Processes one image per environment, see `Network.step`."""
        if not self.options.carry_state:
            return super().step(x, state)
        outputs, layers, state = self.unroll(x.unsqueeze(0), state)
        return outputs[0], layers, state

    def unroll(
        self, x: Tensor, state: State, keep: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], State]:
        """Processes consecutive images, one timestep each, with carried membrane potentials.

        Args:
            x: Images [images, N, channels, height, width], float.
            state: Membrane potentials before the first image.
            keep: Mask [images, N], zero at the first image of an episode, see `lif`.

        Returns:
            Outputs [images, N, outputs], the spikes of every hidden layer, [images, N, ...], and
            the membrane potentials after the last image.
        """
        states = [NeuronState(membrane) for membrane in state]
        last, layers, after = self._simulate(x, len(x), states, keep=keep)
        outputs = head_outputs(self.head, last.flatten(0, 1).flatten(1))
        membranes = [s.membrane for s in after if s.membrane is not None]
        return outputs.unflatten(0, x.shape[:2]), layers, membranes

    def clamp_(self) -> None:
        """Projects thresholds and leaks into their valid ranges, see `Network.clamp_`."""
        for neuron in self.neurons:
            neuron.clamp_()

    def _encode(self, x: Tensor, timesteps: int) -> Tensor:
        return ENCODINGS[self.options.encoding](x, timesteps)

    def _simulate(
        self,
        x: Tensor,
        timesteps: int,
        states: Sequence[NeuronState] | None = None,
        masks: Masks | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], list[NeuronState]]:
        """Returns the head's input, the spikes of every hidden layer, and the new states.

        The input `x` is encoded, [T or 1, N, channels, height, width]. Without states, membrane
        potentials start at zero and no states are returned.
        """
        layers: list[Tensor] = []
        after: list[NeuronState] = []

        def fire(index: int, current: Tensor) -> Tensor:
            before = states[index] if states else None
            spikes: Tensor
            spikes, state = self.neurons[index](current, before, keep, timesteps)
            layers.append(spikes)
            if state is not None:
                after.append(state)
            return spikes

        return self.propagate(x, fire, masks), layers, after
