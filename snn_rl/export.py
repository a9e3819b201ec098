"""Export a trained agent to engines other than PyTorch.

    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 format=onnx
    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 exact=true format=nir

Writes the agent's network with its preprocessing. Runs the file and the network
on the same observations and prints how many spikes and actions agree. For an
exact agent (exact=true), the command fails unless all Q-values are
bit-identical in every batch size and memory layout.

Formats:
  onnx   uint8 frames [batch, channels, height, width] to Q-values; T > 1 is
         unrolled. Checked in onnxruntime. pip install 'snn_rl[export]'
  nir    exchange format of spiking simulators; T=1 only. Checked in snnTorch,
         and in Norse, SpikingJelly, and sinabs if installed.
         pip install 'snn_rl[interop]'
  torch  torch.export program (.pt2), frames to Q-values
  event  integers of an exact agent for the event-driven engine snn_rl.event,
         which requires neither PyTorch nor Stable-Baselines3.
         pip install 'snn_rl[fast]'
  c      C99 source and header of an exact agent, without dependencies. Checked
         with both of its engines if a C compiler (cc) is installed
  module:function
         your own format, see snn_rl.formats.registry.register_format

chip=NAME first compares the network with the published limits of a neuromorphic
chip, one line each, and writes no file if the chip is too small.

T, seed, run_dir, direct, stages, exact and bits select the agent, as in
snn_rl.train. If the run does not exist, the included agent is exported, and the
file goes to runs/<env>/zoo/<stage>.
"""

from snn_rl import __version__
from snn_rl.agents.checks import output_file, prepare
from snn_rl.agents.evaluation import greedy_observations
from snn_rl.agents.finding import WHICH_AGENT, find_stage
from snn_rl.agents.loading import load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.networks import SpikingNetwork
from snn_rl.files.atomic import disk_errors, make_directory
from snn_rl.formats import FORMATS
from snn_rl.formats.agreement import check
from snn_rl.formats.chips import CHIPS, examine
from snn_rl.utils.errors import UserError

_ACCEPTED = (
    *(name for name in WHICH_AGENT if name != "device"),
    *("format", "output", "check_frames", "chip", "eval.seed"),
)


def main(config: Config) -> None:
    """Exports an agent and checks the file."""
    prepare(config, "snn_rl.export", _ACCEPTED)
    try:
        export = FORMATS.find(config.format)
    except ValueError as error:
        raise UserError(str(error)) from None
    stage = find_stage(config)
    agent = load_agent(stage.directory, "cpu")
    network = agent.q_net.network
    assert isinstance(network, SpikingNetwork)
    if config.chip is not None:
        _check_chip(network, config.chip)
    suffix = "pt2" if config.format == "torch" else config.format.rpartition(":")[2]
    path = output_file(config, stage.output / f"network.{suffix}")
    with disk_errors(path):
        make_directory(path.parent)
    notes = {"env": agent.env, "stage": agent.stage, "snn_rl": __version__}
    engines = export(network, path, notes)
    print(f"written to {path}, {path.stat().st_size:,} bytes", flush=True)
    if not engines:
        print("the file was not checked: no engine that runs this format is installed")
    observations = greedy_observations(agent, config.check_frames, config.eval.seed)
    for name, agreement in check(network, engines, observations):
        print(f"{name}: {agreement}", flush=True)


def _check_chip(network: SpikingNetwork, chip: str) -> None:
    """Prints the requirements of the network on a chip, and raises a UserError unless it fits."""
    print(f"published limits of {CHIPS[chip].title}:")
    requirements = examine(network, chip)
    print(*requirements, sep="\n", flush=True)
    exceeded = sum(requirement.fatal for requirement in requirements)
    if exceeded:
        limits = f"{exceeded} limit{'s' * (exceeded > 1)}"
        raise UserError(f"the network exceeds {limits} of {CHIPS[chip].title}: no file is written")


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
