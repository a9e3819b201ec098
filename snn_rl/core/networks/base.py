"""The layer stack that analog and spiking networks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.networks.spec import AvgPool, Block, Connection, Conv, Dense, Dropout, NetworkSpec

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
        dropout: Probability with which activity is dropped at the description's `Dropout`s, in
            training mode. One mask serves all timesteps ([STDB] section 4, [IIR] A.2.2).
    """

    head: nn.Linear

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        self.dropout = 0.0
        self.connections = spec.connections()
        *hidden, head = (_synapse(c, spec.bias, spec.batch_norm) for c in self.connections)
        self.synapses = nn.ModuleList(hidden)
        # the head is Dense, and what is built of that is an nn.Linear
        self.head = head  # type: ignore[assignment]

    @property
    def exact(self) -> bool:
        """Whether the network is on the integer grid and takes raw pixels from 0 to 255."""
        return False

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


def head_outputs(head: nn.Linear, x: Tensor) -> Tensor:
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
