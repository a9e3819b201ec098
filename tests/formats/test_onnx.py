"""ONNX models compared with their networks."""

import onnx
import pytest
import torch

from snn_rl.core.networks import AnalogNetwork
from snn_rl.formats import onnx as onnx_format


@pytest.mark.parametrize("timesteps", [1, 3])
def test_model_has_bias_padding_leak_and_reset(timesteps, tmp_path, random_network, pixels):
    network, frames = random_network(timesteps), pixels()
    path = tmp_path / "network.onnx"
    (engine,) = onnx_format.export(network, path, {"env": "none"}).values()
    outputs, layers = engine(frames)
    expected, spikes = network.activity(network.images(frames))
    for mine, theirs in zip(layers, spikes, strict=True):
        assert mine.shape == theirs.shape and 0.01 < theirs.mean() < 0.99
        assert (mine == theirs).float().mean() > 0.999
    pairs = zip(layers, spikes, strict=True)
    same = torch.stack([(a == b).flatten(2).all(2).all(0) for a, b in pairs]).all(0)
    assert same.float().mean() > 0.8
    torch.testing.assert_close(outputs[same], expected[same].detach())
    model = onnx.load(path)
    (value,) = model.graph.input
    assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {entry.key: entry.value for entry in model.metadata_props} == {"env": "none"}
    if timesteps == 1:
        assert not {node.op_type for node in model.graph.node} & {"Add", "Mul", "Sub"}


def test_analog_network_is_exported_too(tmp_path, spec, pixels):
    network, frames = AnalogNetwork(spec), pixels()
    path = tmp_path / "network.onnx"
    onnx_format.write(network, path)
    outputs, layers = onnx_format.Runner(path, network)(frames)
    expected, activity = network.activity(network.images(frames))
    torch.testing.assert_close(outputs, expected.detach())
    for mine, theirs in zip(layers, activity, strict=True):
        torch.testing.assert_close(mine, theirs.detach())
