"""Stages of an image classifier's chain: training, conversion, retraining and scoring."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn

from snn_rl.chain import run_directory
from snn_rl.chain.records import ImageNotes, Score, flat, unless_damaged
from snn_rl.chain.runner import converted, load_stage, save_stage
from snn_rl.chain.stages import ANN, SCRATCH, ChainOptions, Stage, schedule
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.conversion import ThresholdSearch, fuse_batch_norm, magnitude_masks
from snn_rl.core.networks import (
    AnalogNetwork,
    AvgPool,
    MaxPool,
    Network,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    State,
    image_network,
)
from snn_rl.files.checkpoint import load_network
from snn_rl.images import distributed
from snn_rl.images.data.datasets import Dataset
from snn_rl.images.data.splits import MemorySplit
from snn_rl.images.fitting import SCHEDULES, Recipe, fit
from snn_rl.images.scoring import score
from snn_rl.utils.device import uses_bf16
from snn_rl.utils.errors import UserError
from snn_rl.utils.process_memory import PeakMemory
from snn_rl.utils.seeding import derive_seed, seed_everything

POOLINGS: dict[str, type[AvgPool] | type[MaxPool]] = {"avg": AvgPool, "max": MaxPool}
AT_ONE = "at_one_timestep.json"  # score of a stage's weights at T=1, beside metrics.json
_SHARED = (
    *("dataset", "net", "seed", "batch_norm", "pooling", "image_size", "limit", "clip", "pixels"),
)  # settings of every stage


def chain(config: ClassifyConfig) -> list[Stage]:
    """Returns the stages of the chain that the settings describe."""
    if config.scratch:
        return [Stage.parse(f"T{config.T}-{SCRATCH}")]
    return schedule(ChainOptions.of(config, prune=config.prune > 0))


def directory_of(config: ClassifyConfig) -> Path:
    """Returns the directory of the run: run_dir, or <runs>/<dataset>-<net>/seed<k>."""
    return Path(config.run_dir or f"{config.runs}/{config.dataset}-{config.net}/seed{config.seed}")


def network_spec(config: ClassifyConfig, dataset: Dataset) -> NetworkSpec:
    """Returns the network description for the settings and the images of a dataset."""
    pooling = POOLINGS[config.pooling]
    shape, classes = dataset.image_shape, dataset.classes
    try:
        spec = image_network(config.net, shape, classes, config.batch_norm, pooling)
    except ValueError as error:
        raise UserError(str(error)) from None
    return replace(spec, clip=config.clip)


def stage_settings(config: ClassifyConfig, fingerprint: str, stage: Stage) -> dict[str, Any]:
    """Returns the settings that a stage's result depends on, as JSON-compatible types."""
    settings: dict[str, Any] = {name: getattr(config, name) for name in _SHARED}
    settings |= {
        "training_images": fingerprint,
        "bf16": uses_bf16(config.precision, config.device),
        "threads": torch.get_num_threads(),
    }
    if distributed.size() > 1:
        settings["workers"] = distributed.size()
    if stage.analog:
        if config.ann:
            return settings | {"ann": run_directory.file_hash(config.ann)}
        return settings | flat("fit", config.fit)
    iir = flat("iir", config.iir)
    del iir["iir.t1_epochs"]  # part of iir.epochs
    iir["iir.epochs"] = stage_epochs(config, stage)
    if config.iir.thresholds_from:
        iir["iir.thresholds_from"] = run_directory.file_hash(config.iir.thresholds_from)
    if stage.pruned:
        settings["prune"] = config.prune
    return settings | {"T": stage.timesteps, "source": stage.source} | iir


def stage_epochs(config: ClassifyConfig, stage: Stage) -> int:
    """Returns the number of passes over the training images in a stage."""
    if not stage.trained or (stage.analog and config.ann):
        return 0
    if stage.analog:
        return config.fit.epochs
    if stage.timesteps == 1 and config.iir.t1_epochs:
        return config.iir.t1_epochs
    return config.iir.epochs


class ImageChain:
    """Trains and scores the stages of a run."""

    def __init__(self, config: ClassifyConfig, dataset: Dataset, directory: Path):
        self.config = config
        self.dataset = dataset
        self.directory = directory
        self.device = distributed.own_device(get_device(config.device))
        self.bf16 = uses_bf16(config.precision, config.device)
        for split in (dataset.train, dataset.test):
            if isinstance(split, MemorySplit):
                split.to(self.device)

    def fit(self, stage: Stage) -> None:
        """Trains or resumes a stage, and saves its network."""
        distributed.barrier()  # the first worker writes the previous stage's network
        config, directory = self.config, self.directory / stage.name
        seed = (config.seed, (stage.timesteps or 0) + 1_000_000 * stage.pruned)
        seed_everything(derive_seed(*seed))
        network = self._initial_network(stage)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        epochs = stage_epochs(config, stage)
        notes = ImageNotes(
            dataset=config.dataset,
            net=config.net,
            stage=stage.name,
            seed=config.seed,
            epochs=epochs,
        )
        if epochs:
            peak = PeakMemory(self.device)
            settings = config.fit if stage.analog else config.iir
            counters = fit(
                network,
                self._optimizer(stage, network),
                self.dataset.train,
                self._recipe(stage, network),
                directory,
                seed,
            )
            notes = replace(
                notes,
                updates=counters.updates,
                wall_s=counters.wall_s,
                history=counters.history,
                memory=peak.read(),
                images=counters.updates * settings.batch_size,
            )
        if distributed.is_first():
            save_stage(directory, network, notes, self._samples)

    def score(self, stage: Stage) -> Score:
        """Returns a finished stage's accuracy on the test images, measured once and stored."""
        return self._score(stage, run_directory.METRICS, stage.name)

    def score_at_one(self, stage: Stage) -> Score | None:
        """Returns the accuracy of a trained stage's weights at T=1, measured once and stored.

        Source: [IIR] Fig. 1d, where T1_5 denotes the weights of T5 at T=1.

        Returns:
            None if the stage was not trained, or was trained at T=1 or as an ANN.
        """
        if not stage.trained or stage.timesteps in (None, 1):
            return None
        return self._score(stage, AT_ONE, f"T1 of {stage.name}", timesteps=1)

    def _score(self, stage: Stage, file: str, name: str, timesteps: int | None = None) -> Score:
        distributed.barrier()
        path = self.directory / stage.name / file
        test, limit = self.dataset.test, self.config.test_limit
        fingerprint = test.fingerprint()
        before = unless_damaged(lambda: Score.read(path)) if path.exists() else None
        same_images = before is not None and before.test_images in (None, fingerprint)
        if before is not None and same_images and before.images == (limit or len(test)):
            return before
        network = load_stage(self.directory, stage.name)
        if timesteps is not None:
            assert isinstance(network, SpikingNetwork)
            network = _with_options(network, replace(network.options, timesteps=timesteps))
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        seed_everything(derive_seed(self.config.seed, 1_000_000))  # for Poisson input
        settings = self.config.fit if stage.analog else self.config.iir
        result = replace(
            score(network, test, settings.batch_size, name, limit),
            test_is_train=self.dataset.test_is_train,
            test_images=fingerprint,
        )
        if distributed.is_first():
            result.write(path)
        return result

    def _initial_network(self, stage: Stage) -> AnalogNetwork | SpikingNetwork:
        """Returns the network that a stage starts from."""
        source = load_stage(self.directory, stage.source) if stage.source else self._first_network()
        if stage.timesteps is None:
            return source
        iir = self.config.iir
        options = SpikingOptions(stage.timesteps, iir.surrogate, iir.encoding)
        if isinstance(source, AnalogNetwork):
            search = ThresholdSearch(
                iir.thresholds,
                iir.percentile,
                iir.percentile_over,
                iir.conversion_timesteps,
                iir.threshold_scale,
                iir.block_thresholds,
                _thresholds(iir.thresholds_from),
            )
            analog = source.to(self.device).eval()
            network = converted(analog, self._samples()[0], options, search)
        else:
            network = _with_options(source, options)
        if not iir.train_threshold:
            for neuron in network.neurons:
                neuron.requires_grad_(False)
        return network

    def _first_network(self) -> AnalogNetwork:
        """Returns the imported ANN, or an untrained ANN."""
        config = self.config
        spec = network_spec(config, self.dataset)
        if config.ann is None:
            network = AnalogNetwork(spec)
            initialize(network)
            return network
        found, _ = load_network(Path(config.ann))
        if not isinstance(found, AnalogNetwork) or found.spec != spec:
            raise UserError(
                f"ann={config.ann} is not the analog network of dataset={config.dataset} "
                f"net={config.net} batch_norm={config.batch_norm} pooling={config.pooling} "
                f"clip={config.clip}"
            )
        return found

    def _samples(self) -> tuple[Tensor, State]:
        """Returns training images for the threshold search, identical on every call."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed))
        count = min(self.config.iir.conversion_samples, len(self.dataset.train))
        images, _ = next(self.dataset.train.batches(count, generator=generator))
        return images.to(self.device), []

    def _teacher(self, stage: Stage) -> Network | None:
        if stage.analog or not self.config.iir.distill:
            return None
        network = load_stage(self.directory, ANN)
        assert isinstance(network, AnalogNetwork)
        teacher = fuse_batch_norm(network)
        teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return teacher.eval()

    def _recipe(self, stage: Stage, network: Network) -> Recipe:
        iir = self.config.iir
        settings = self.config.fit if stage.analog else iir
        shape = SCHEDULES[settings.schedule]
        return Recipe(
            epochs=stage_epochs(self.config, stage),
            rate=lambda progress: (
                settings.lr * shape(progress, settings.milestones, settings.decay)
            ),
            batch_size=settings.batch_size,
            dropout=settings.dropout,
            label_smoothing=settings.label_smoothing,
            distill=0.0 if stage.analog else iir.distill,
            temperature=iir.temperature,
            bf16=self.bf16,
            window=iir.window,
            teacher=self._teacher(stage),
            masks=magnitude_masks(network, self.config.prune) if stage.pruned else {},
        )

    def _optimizer(self, stage: Stage, network: Network) -> torch.optim.Optimizer:
        trained = [p for p in network.parameters() if p.requires_grad]
        if stage.analog:
            fit = self.config.fit
            return torch.optim.SGD(
                trained, fit.lr, momentum=0.9, weight_decay=fit.weight_decay, fused=True
            )
        iir = self.config.iir
        return torch.optim.Adam(trained, iir.lr, weight_decay=iir.weight_decay, fused=True)


def _with_options(source: SpikingNetwork, options: SpikingOptions) -> SpikingNetwork:
    """Returns a network with the same weights, thresholds and leaks and with other options."""
    network = SpikingNetwork(source.spec, options)
    network.load_state_dict(source.state_dict())
    return network


def _thresholds(file: str | None) -> list[float] | None:
    """Returns the thresholds of a spiking network's file."""
    if file is None:
        return None
    network, _ = load_network(Path(file))
    if not isinstance(network, SpikingNetwork):
        raise UserError(f"iir.thresholds_from={file} is an ANN: use a spiking network's file")
    return [float(neuron.v_threshold.detach()) for neuron in network.neurons]


def initialize(network: AnalogNetwork) -> None:
    """Initializes weights after He et al. (2015), as in [IIR] A.2.2."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
