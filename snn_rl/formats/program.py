"""Networks as `torch.export` programs: uint8 pixels in, Q-values out, for any batch."""

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from snn_rl.core.networks import Network
from snn_rl.files.atomic import write_bytes
from snn_rl.formats import check_plain


class _OfPixels(nn.Module):
    """A network with the preprocessing of its input."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        q_values: Tensor = self.network(self.network.images(pixels))
        return q_values


def program(network: Network) -> torch.export.ExportedProgram:
    """The network as a program from pixels, uint8 [N, channels, height, width], to [N, actions].

    Raises:
        UserError: The network is of a kind that has no program, see `check_plain`.
    """
    check_plain(network, "a torch.export program")
    # two rows: a dimension of one is taken for a constant
    example = torch.zeros(2, *network.spec.input_shape, dtype=torch.uint8)
    module = _OfPixels(network).eval()
    with torch.no_grad():
        return torch.export.export(
            module, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}
        )


def write(network: Network, path: Path) -> nn.Module:
    """Writes `program` as a .pt2 file, whole or not at all.

    Args:
        network: See `program`.
        path: The file.

    Returns:
        The program as it is loaded again, from the very bytes of the file. (Read .pt2 files of
        people you trust only: `torch.export.load` may unpickle.)

    Raises:
        UserError: See `program`; the disk is full or read-only.
    """
    buffer = io.BytesIO()
    torch.export.save(program(network), buffer)
    data = buffer.getvalue()
    write_bytes(path, data)
    loaded: nn.Module = torch.export.load(io.BytesIO(data)).module()
    return loaded
