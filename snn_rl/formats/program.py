"""Export as `torch.export` programs from uint8 pixels to Q-values, for any batch size."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.atomic import write_bytes
from snn_rl.formats.registry import Engine, check_plain


class _PixelNetwork(nn.Module):
    """A network with the preprocessing of its input."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        q_values: Tensor = self.network(self.network.images(pixels))
        return q_values


def program(network: Network) -> torch.export.ExportedProgram:
    """Returns the program from pixels, uint8 [N, channels, height, width], to [N, actions]."""
    check_plain(network, "a torch.export program")
    # Two images: a dimension of one would be exported as a constant.
    example = torch.zeros(2, *network.spec.input_shape, dtype=torch.uint8)
    module = _PixelNetwork(network).eval()
    with torch.no_grad():
        return torch.export.export(
            module, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}
        )


def export(network: SpikingNetwork, path: Path, notes: Mapping[str, str]) -> dict[str, Engine]:
    """Writes `program` as a .pt2 file, atomically; see `register_format`.

    The engine runs the loaded bytes of the file. Read only trusted .pt2 files: `torch.export.load`
    may unpickle.
    """
    buffer = io.BytesIO()
    torch.export.save(program(network), buffer)
    write_bytes(path, buffer.getvalue())
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            return loaded(pixels), []

    return {"torch.export": run}
