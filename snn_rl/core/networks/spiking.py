"""One description of a layer stack, and its two forms: analog (ReLU) and spiking (LIF)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.lif import LIF, Memory
from snn_rl.core.networks.base import WINDOW, Masks, Network, State, head_outputs
from snn_rl.core.networks.spec import NetworkSpec
from snn_rl.core.surrogate import NAMES, TIMED


class SpikingNetwork(Network):
    """The spiking network: LIF neurons after every hidden layer, an integrating head.

    Time is folded into the batch for every weight layer; under direct encoding the first layer's
    current is computed once and used at every timestep. The head integrates without firing and
    without leak: its output is head(mean over t of the spikes), the bias once, so that outputs
    keep their scale when T changes ([IIR] eq. 7 divided by T).

    Args:
        spec: The description.
        timesteps: T >= 1.
        surrogate: A name in `snn_rl.core.surrogate.NAMES`.
        encoding: A name in `snn_rl.core.encoding.ENCODINGS`.
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
