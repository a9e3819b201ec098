"""The registry of export formats, and checks that all formats share."""

import sys
from dataclasses import replace

import pytest

from snn_rl.configs.schema import Config
from snn_rl.configs.setting import CUSTOM, settings_of
from snn_rl.core.networks import AvgPool, Conv, SpikingNetwork, SpikingOptions
from snn_rl.formats import FORMATS, nir, onnx, program, register_format
from snn_rl.utils.errors import UserError


def test_settings_offer_the_registered_formats():
    assert settings_of(Config)["format"].choices == (*FORMATS, CUSTOM)


def test_registered_format_is_found(tmp_path, monkeypatch):
    def export(network, path, notes):
        return {}

    register_format("csv", export)
    assert FORMATS.find("csv") is export
    del FORMATS["csv"]
    (tmp_path / "own_formats.py").write_text("def csv(network, path, notes):\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert FORMATS.find("own_formats:csv")(None, tmp_path, {}) == {}


@pytest.mark.parametrize("write", [onnx.write, nir.write, lambda net, path: program.program(net)])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("poisson", "random numbers"),
        ("carried", "carry over from image to image"),
        ("pooling", "other than plain convolutions"),
    ],
)
def test_unsupported_network_is_rejected(write, kind, reason, tmp_path, random_network, spec):
    if kind == "poisson":
        network = random_network(encoding="poisson")
    elif kind == "carried":
        network = random_network(carry_state=True)
    else:
        pooling = replace(spec, layers=(Conv(4, 3), AvgPool()))
        network = SpikingNetwork(pooling, SpikingOptions(1))
    with pytest.raises(UserError, match=reason):
        write(network, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named(monkeypatch, tmp_path, random_network):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(UserError, match=r"onnx.*pip install 'snn_rl\[export\]'"):
        onnx.write(random_network(), tmp_path / "file")
    with pytest.raises(UserError, match=r"nir.*pip install 'snn_rl\[interop\]'"):
        nir.write(random_network(), tmp_path / "file")
