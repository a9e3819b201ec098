"""Layer stack shared by analog and spiking networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.networks.spec import AvgPool, Block, Connection, Conv, Dense, Dropout, NetworkSpec

# Maps the current of hidden layer k, [T or 1, N, ...], to its activity, [T, N, ...]
Fire = Callable[[int, Tensor], Tensor]

# Membrane potentials carried between images, [N, ...] per hidden layer; [] if not carried
State = list[Tensor]

# Dropout masks by the position of the `Dropout` layer in the stack
Masks = dict[int, Tensor]

# Number of timesteps that inference keeps in memory at once
WINDOW = 25


def clear(state: State, ended: Tensor) -> State:
    """Zeroes the membrane potentials of environments whose episode has `ended`, a mask [N]."""
    keep = (~ended).float()
    return [membrane * keep.view(-1, *[1] * (membrane.dim() - 1)) for membrane in state]


class Scale(nn.Module):
    """Identity shortcut with a scale, initially 1, into which conversion folds a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scales a tensor of any shape in the precision of the weight, even under autocast."""
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
    """Base class of analog and spiking networks, which share the names of their weight layers.

    Args:
        spec: Layer stack.

    Attributes:
        synapses: Weight layers without the head, in the order of `NetworkSpec.connections`.
        head: Last weight layer.
        dropout: Dropout probability of the `Dropout` layers in training mode. All timesteps use the
            same mask ([STDB] section 5, [IIR] A.2.2).
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
        """True if the network is on the integer grid and takes raw pixels from 0 to 255."""
        return False

    def propagate(self, x: Tensor, fire: Fire, masks: Masks | None = None) -> Tensor:
        """Propagates activity through all layers up to the head's input.

        Args:
            x: Input [T or 1, N, channels, height, width]. A leading dimension of 1 stands for an
                input that is constant over time. Every weight layer folds time
                into the batch.
            fire: Function that simulates the neurons of a layer.
            masks: Dropout masks to use. Missing masks are sampled and added.

        Returns:
            Input of the head, [T, N, ...].
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
        """Converts observations to the network's input: float in [0, 1], channels_last.

        Exact networks use pixel values from 0 to 255.

        Args:
            pixels: uint8 [N, channels, height, width], with the newest frame last. Only the
                newest channels are used, as many as the network's input has.
        """
        # change the memory layout while a pixel is still one byte
        x = pixels[:, -self.spec.input_shape[0] :].contiguous(memory_format=torch.channels_last)
        return x.float() if self.exact else x.float().div_(255.0)

    def followers(self, index: int) -> list[nn.Module]:
        """Returns the weight layers that receive the activity of hidden layer `index`."""
        layers = [*self.synapses, self.head]
        pairs = zip(layers, self.connections, strict=True)
        return [layer for layer, connection in pairs if connection.source == index]

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs [N, outputs] and the activity of every hidden layer, [T, N, ...].

        The images `x` are [N, channels, height, width], float.
        """
        raise NotImplementedError

    def count(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs [N, outputs] and the spike counts of every hidden layer, [N, ...].

        In an analog network, active neurons count as 1.
        """
        outputs, layers = self.activity(x)
        return outputs, [(layer != 0).float().sum(0) for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """Maps float images [N, channels, height, width] to outputs [N, outputs]."""
        return self.activity(x)[0]

    def initial_state(self, count: int) -> State:
        """Returns the zero state of `count` environments; [] if the network carries no state."""
        return []

    def step(self, x: Tensor, state: State) -> tuple[Tensor, list[Tensor], State]:
        """Processes one image per environment, with carried membrane potentials if enabled.

        Args:
            x: Images [N, channels, height, width], float.
            state: State from `initial_state` or from the previous step.

        Returns:
            Outputs [N, outputs], activity of every hidden layer [T, N, ...], and the new state.
        """
        return *self.activity(x), state

    def clamp_(self) -> None:
        """Projects the parameters into their valid ranges. Required after every optimizer step."""


def head_outputs(head: nn.Linear, x: Tensor) -> Tensor:
    """Returns the head's outputs in the precision of its weights, even under autocast.

    In bfloat16, Q-values that differ by less than a hundredth would round to the same number.
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
