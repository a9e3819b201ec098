"""Train an image classifier that decides in one timestep.

    python -m snn_rl.classify dataset=cifar10 net=vgg6 T=1 data=PATH

The same chain as for agents: an ordinary network (ANN) is trained, converted into a spiking one,
and retrained stage by stage with fewer timesteps (T=5, 4, 3, 2, 1). Every stage is then scored on
the test images; runs/<dataset>-<net>/seed<k>/report.md shows the result. The same command resumes
where it was stopped.

The settings that matter first (key=value, any order):
  dataset=NAME        cifar10, cifar100 or imagenet
  data=PATH           its folder; without it <SNN_RL_DATA>/<dataset>
  net=NAME            vgg5, vgg6, vgg9, vgg11, vgg16, resnet8, resnet20 or resnet34
  T=1                 timesteps at which the chain stops
  T_start=5 T_step=1  where the spiking stages start, and by how much T falls
  direct=true         retrain at T at once, without the stages between
  stages=none         convert only, without retraining (any T, for example T=100)
  scratch=true        a spiking network without an ANN before it (iir.distill=0); with T=1 one
                      of binary activations
  seed=0              of everything random
  run_dir=PATH        instead of runs/<dataset>-<net>/seed<k>
  preset=NAME         a paper's settings instead of the short ones: paper ([IIR]), stdb or ull
  ann=FILE            start from this network.safetensors instead of training an ANN
  prune=0.9           go on from the last T to a network with a tenth of its weights
  batch_norm=true     batch-norm in the ANN; conversion fuses it
  pooling=avg         avg or max
  clip=true           clip the ANN's ReLUs, each at a threshold that is trained
  pixels=standard     standard, or symmetric: from -1 to 1, as Poisson input needs them
  limit=N             only as many training images, of all classes alike
  test_limit=N        only as many test images, likewise
  threads=0           processor threads (0: all cores)
  fit.epochs=N        length of the ANN stage, in passes over the training images
  iir.epochs=N        length of each spiking stage
  iir.t1_epochs=N     length of the T=1 stage
  iir.thresholds=NAME how conversion finds thresholds: percentile, clip or alpha_beta
  iir.encoding=poisson iir.surrogate=stdb iir.window=25
                      spikes as input, the spike-time surrogate, truncated BPTT; see preset=stdb
  iir.distill=X       weight of the ANN's outputs against the labels in the spiking stages, 0 to 1

All of them, with their defaults: snn_rl/configs/image_schema.py.

Several GPUs or machines: torchrun --nproc-per-node 8 -m snn_rl.classify ..., docs/imagenet.md says
more. Sweeps, one run after the other: -m seed=0,1,2 (Hydra). Several at once, with as many jobs and
threads as there are cores: pip install 'snn_rl[sweep]' and
  -m seed=0,1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2 threads=1
On a SLURM cluster: pip install 'snn_rl[slurm]' and
  -m seed=0,1,2 hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=1
"""

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from snn_rl.chain import run_directory
from snn_rl.chain.records import record_invocation
from snn_rl.chain.runner import run_chain
from snn_rl.configs.compose import run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.images import distributed
from snn_rl.images.chain import ChainFitter, chain, directory_of, stage_settings
from snn_rl.images.checks import check_sizes, check_values
from snn_rl.images.data.datasets import PIXELS, open_dataset
from snn_rl.reports.image_report import write_report
from snn_rl.utils.process_memory import keep_freed_memory
from snn_rl.utils.threads import use_threads


def main(config: ClassifyConfig) -> None:
    """Runs the chain, scores every stage, writes the report."""
    check_values(config)
    use_threads(config.threads)
    keep_freed_memory()
    stages = chain(config)
    folder = config.data or str(Path(os.environ.get("SNN_RL_DATA", "data")) / config.dataset)
    dataset = PIXELS[config.pixels](
        open_dataset(config.dataset, Path(folder), config.image_size, config.limit)
    )
    check_sizes(config, dataset)
    directory = directory_of(config)
    first = distributed.is_first()
    with run_directory.lock(directory) if first else nullcontext():
        fitter = ChainFitter(config, dataset, directory)
        settings = partial(stage_settings, config, dataset.train.fingerprint())
        record = partial(record_invocation, directory, config, distributed.launcher())
        run_chain(directory, stages, settings, fitter.fit, record, writes=first)
        for stage in stages:
            score = fitter.score(stage)
            if first:
                kind = (
                    "TRAINING images, for want of others" if score.test_is_train else "test images"
                )
                print(f"{stage.name}: {score.accuracy:.2%} of {score.images} {kind}")
            fitter.score_at_one(stage)
        if first:
            print(f"report: {write_report(directory)}")


if __name__ == "__main__":
    with distributed.workers():
        run_command(ClassifyConfig, main, __doc__, complain=distributed.complain)
