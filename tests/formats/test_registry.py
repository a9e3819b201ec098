"""The registry of export formats, and checks that all formats share."""

import sys
from dataclasses import replace

import pytest

from snn_rl.configs.schema import Config
from snn_rl.configs.setting import CUSTOM, settings_of
from snn_rl.core.networks import AvgPool, Conv, SpikingNetwork, SpikingOptions
from snn_rl.formats import FORMATS, get_format, nir, onnx, program, register_format
from snn_rl.utils.errors import UserError


def test_settings_offer_the_registered_formats():
    assert settings_of(Config)["format"].choices == (*FORMATS, CUSTOM)


def test_registered_format_is_found(monkeypatch):
    monkeypatch.setattr("snn_rl.formats.registry.FORMATS", {})

    def export(network, path, notes):
        return {}

    register_format("csv", export)
    assert get_format("csv").export is export and get_format("csv").suffix == "csv"
    register_format("csv", export)
    for name in ("csv", "a:b"):
        with pytest.raises(ValueError, match="taken or contains a colon"):
            register_format(name, lambda *_: {})


def test_function_of_an_own_module_is_a_format(tmp_path, monkeypatch):
    (tmp_path / "own_formats.py").write_text("def csv(network, path, notes):\n    return {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = get_format("own_formats:csv")
    assert found.suffix == "csv" and found.export(None, tmp_path, {}) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tflite", "format=tflite: must be one of onnx, nir, torch, event"),
        ("nowhere:csv", "format=nowhere:csv: cannot be imported"),
        ("json:csv", "has no attribute 'csv'"),
    ],
)
def test_unknown_format_is_rejected(name, words):
    with pytest.raises(UserError, match=words):
        get_format(name)


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
