"""Energy of a decision, as the evaluation reports it."""

import pytest

from snn_rl.agents.evaluation import energy_ratios
from snn_rl.core.networks.q_networks import cartpole


def test_skipping_zeros_saves_energy_only_if_there_are_zeros():
    spec = cartpole((3, 40, 120), 2)
    ratios = energy_ratios(spec, [0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert ratios["float32_skipping"] == pytest.approx(ratios["float32"])
    sparse = energy_ratios(spec, [0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    assert sparse["float32_skipping"] < ratios["float32_skipping"]
