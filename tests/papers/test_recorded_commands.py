"""What a recorded command says of one run."""

import pytest

from snn_rl.papers.recorded_commands import given_settings

CLASSIFY = "python -m snn_rl.classify"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("net=vgg5 'data=my images'", {"net": "vgg5", "data": "my images"}),
        ("-m --multirun hydra/launcher=joblib hydra.launcher.n_jobs=2 T=1", {"T": "1"}),
        ("++iir.lr=0.1 iir.lr=0.2", {"iir.lr": "0.2"}),
        ("'iir.milestones=[0.5,0.9]'", {"iir.milestones": "[0.5,0.9]"}),
        ("'iir.milestones=[0.5],[0.9]'", {"iir.milestones": "[0.5, 0.75]"}),
        ("limit=null,500 'iir.lr=choice(1e-3,1e-4)'", {"limit": "null", "iir.lr": "0.001"}),
        ("test_limit=100,200", {}),
        ("data=/a,/b iir.thresholds_from=a,b", {"data": "/a,/b", "iir.thresholds_from": "a,b"}),
    ],
)
def test_of_a_sweep_only_the_run_s_own_values(words, given):
    own = {"iir.milestones": [0.5, 0.75], "limit": None, "iir.lr": 1e-3}
    own |= {"data": "0123", "iir.thresholds_from": "4567"}
    assert given_settings(f"{CLASSIFY} {words}", own) == given


def test_options_of_a_launcher_are_no_settings():
    command = "torchrun --nnodes 2 --nproc-per-node=4 -m snn_rl.classify net=vgg5"
    assert given_settings(command, {}) == {"net": "vgg5"}
