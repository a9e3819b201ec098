"""`torch.export` programs compared with their networks."""

import torch

from snn_rl.core.conversion import quantize
from snn_rl.formats import program


def test_program_takes_any_batch(tmp_path, random_network, pixels):
    network = quantize(random_network())
    (engine,) = program.export(network, tmp_path / "network.pt2", {}).values()
    loaded = torch.export.load(tmp_path / "network.pt2").module()
    for count in (1, 2, 33):
        frames = pixels(count)
        expected = network(network.images(frames))
        assert torch.equal(engine(frames)[0], expected)
        assert torch.equal(loaded(frames), expected)
