"""The layer stack that analog and spiking networks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.networks.spec import AvgPool, Block, Connection, Conv, Dense, Dropout, NetworkSpec

# Maps the current of hidden layer k, [T or 1, N, ...], to its activity, [T, N, ...]
Fire = Callable[[int, Tensor], Tensor]

# Membranes carried from image to image, [N, ...] per hidden layer; [] for other networks
State = list[Tensor]

# Dropout masks by the position of the `Dropout` in the layer stack
Masks = dict[int, Tensor]

# Timesteps that inference holds in memory at a time
WINDOW = 25


def clear(state: State, ended: Tensor) -> State:
    """Empties the membranes of the environments whose episode has `ended`, a mask [N]."""
    keep = (~ended).float()
    return [membrane * keep.view(-1, *[1] * (membrane.dim() - 1)) for membrane in state]


class Scale(nn.Module):
    """An identity shortcut with a scale of 1, into which conversion folds a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scales a tensor of any shape, in the precision of the weight also under autocast."""
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
    """Base class of analog and spiking networks, with the weight layers under the same names.

    Args:
        spec: Layer stack.

    Attributes:
        synapses: Weight layers without the head, in the order of `NetworkSpec.connections`.
        head: Last weight layer.
        dropout: Dropout probability at the layer stack's `Dropout`s in training mode. One mask
            serves all timesteps ([STDB] section 4, [IIR] A.2.2).
    """

    head: nn.Linear

    def __init__(self, spec: NetworkSpec):
        super().__init__()
        self.spec = spec
        self.dropout = 0.0
        self.connections = spec.connections()
        *hidden, head = (_synapse(c, spec.bias, spec.batch_norm) for c in self.connections)
        self.synapses = nn.ModuleList(hidden)
        self.head = head  # type: ignore[assignment]

    @property
    def exact(self) -> bool:
        """Whether the network is on the integer grid and takes raw pixels from 0 to 255."""
        return False

    def propagate(self, x: Tensor, fire: Fire, masks: Masks | None = None) -> Tensor:
        """Propagates activity through all layers up to the head's input.

        Args:
            x: [T or 1, N, channels, height, width]. A single leading entry is an input that is
                constant over time. Time is folded into the batch for every weight layer.
            fire: Function of the neurons.
            masks: Dropout masks to use. Missing masks are drawn and added.

        Returns:
            [T, N, ...].
        """
        masks = {} if masks is None else masks
        synapses = iter(self.synapses)
        neurons = 0
        for position, layer in enumerate(self.spec.layers):
            if isinstance(layer, Conv | Dense):
                x = fire(neurons, _fold_time(next(synapses), x))
                neurons += 1
            elif isinstance(layer, Block):
                inner = fire(neurons, _fold_time(next(synapses), x))
                current = _fold_time(next(synapses), inner)
                x = fire(neurons + 1, current + _fold_time(next(synapses), x))
                neurons += 2
            elif not isinstance(layer, Dropout):
                pool = F.avg_pool2d if isinstance(layer, AvgPool) else F.max_pool2d
                x = pool(x.flatten(0, 1), layer.kernel).unflatten(0, x.shape[:2])
            elif self.training and self.dropout:
                if position not in masks:
                    masks[position] = F.dropout(torch.ones_like(x[:1]), self.dropout)
                x = x * masks[position]
        return x

    def images(self, pixels: Tensor) -> Tensor:
        """Returns observations as the network's input: float in [0, 1], channels_last.

        Exact networks take pixels from 0 to 255.

        Args:
            pixels: uint8 [N, channels, height, width], the newest frame last. The network sees as
                many of the newest channels as its input has.
        """
        # the memory layout is changed while a pixel is still one byte
        x = pixels[:, -self.spec.input_shape[0] :].contiguous(memory_format=torch.channels_last)
        return x.float() if self.exact else x.float().div_(255.0)

    def followers(self, index: int) -> list[nn.Module]:
        """Returns the weight layers that the activity of hidden layer `index` enters."""
        layers = [*self.synapses, self.head]
        pairs = zip(layers, self.connections, strict=True)
        return [layer for layer, connection in pairs if connection.source == index]

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the output [N, outputs] and every hidden layer's activity, [T, N, ...].

        The images are [N, channels, height, width], float.
        """
        raise NotImplementedError

    def count(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the output [N, outputs] and every hidden layer's number of spikes, [N, ...].

        For an analog network the numbers are 1 at active neurons.
        """
        outputs, layers = self.activity(x)
        return outputs, [(layer != 0).float().sum(0) for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [N, channels, height, width], float, to outputs [N, outputs]."""
        return self.activity(x)[0]

    def initial_state(self, count: int) -> State:
        """Returns the empty membranes of `count` environments, [] if membranes are not carried."""
        return []

    def step(self, x: Tensor, state: State) -> tuple[Tensor, list[Tensor], State]:
        """Decides on one image per environment, and carries the membranes if the network does.

        Args:
            x: Images [N, channels, height, width], float.
            state: State from `initial_state` or from the previous step.

        Returns:
            Outputs [N, outputs], every hidden layer's activity, [T, N, ...], and the new state.
        """
        return *self.activity(x), state

    def clamp_(self) -> None:
        """Projects the parameters into their ranges; to be called after every optimizer step."""


def head_outputs(head: nn.Linear, x: Tensor) -> Tensor:
    """Returns the head's outputs in its own precision, also under autocast.

    bfloat16 would round Q-values that differ by less than a hundredth to the same number.
    """
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return head_outputs(head, x)
    out: Tensor = head(x.to(head.weight.dtype))
    return out


def _fold_time(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a weight layer to activity [T, N, ...] with time folded into the batch."""
    folded = x.flatten(0, 1)
    out: Tensor = layer(folded.flatten(1) if isinstance(layer, nn.Linear) else folded)
    current: Tensor = out.unflatten(0, x.shape[:2])
    return current
