"""Training of a network on labeled images, with bit-identical resumption.

All random numbers of an epoch (order, augmentation, dropout, Poisson spikes) come from generators
seeded by (seed, stage, epoch), and the weights and the optimizer's state are saved between epochs.
An interrupted run therefore repeats the unsaved epochs. With several workers (`distributed`), each
worker processes a part of every batch, with its own dropout and Poisson spikes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from snn_rl.chain.records import Record
from snn_rl.chain.run_directory import STATE
from snn_rl.core.conversion import activity_rates, apply_masks_
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.archive import MAX_STATE
from snn_rl.files.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from snn_rl.files.optimizer_state import load_moments, moments
from snn_rl.images import distributed
from snn_rl.images.data.datasets import Split
from snn_rl.utils.errors import DamagedFile, UserError
from snn_rl.utils.seeding import derive_seed, seed_everything

_FAST_S = 0.5  # if saving takes less time, the state is saved after every epoch
_NETWORK = "network."


def steps(progress: float, milestones: Sequence[float], decay: float = 0.2) -> float:
    """Returns a factor that is multiplied by `decay` at each milestone.

    The decay is 1/5 in [IIR] A.2.2 and 1/10 in [ULL] IV-A.
    """
    return float(decay ** sum(progress >= milestone for milestone in milestones))


def cosine(progress: float, milestones: Sequence[float], decay: float = 0.2) -> float:
    """Returns a factor with cosine decay from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def onecycle(
    progress: float, milestones: Sequence[float], decay: float = 0.2, rise: float = 0.25
) -> float:
    """Returns a factor that rises linearly to 1, then decays to 0 along a cosine.

    Source: Smith and Topin (2019).
    """
    if progress < rise:
        return progress / rise
    return cosine((progress - rise) / (1 - rise), milestones, decay)


# Functions that map the progress in [0, 1] to a learning-rate factor
SCHEDULES: dict[str, Callable[[float, Sequence[float], float], float]] = {
    "steps": steps,
    "cosine": cosine,
    "onecycle": onecycle,
}


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters.

    Attributes:
        epochs: Passes over the training images.
        rate: Function from the progress in [0, 1] to the learning rate.
        batch_size: Images per gradient step, over all workers.
        dropout: Dropout probability, see `Network.dropout`.
        label_smoothing: Label smoothing of the cross-entropy.
        distill: Weight of the distillation loss in [0, 1]; the cross-entropy has weight
            1 - distill.
        temperature: Temperature of the distillation.
        bf16: True to train with bfloat16 autocast.
        window: Window length of truncated backpropagation through time, in timesteps; 0 for all
            timesteps.
        teacher: Network to distill from; required if `distill` is above 0.
        masks: Masks of the weights that are kept, from `magnitude_masks`; empty to keep all
            weights.
    """

    epochs: int
    rate: Callable[[float], float]
    batch_size: int
    dropout: float = 0.0
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 1.0
    bf16: bool = False
    window: int = 0
    teacher: Network | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Counters(Record):
    """Progress of a stage, stored with its state.

    Attributes:
        epoch: Number of finished epochs.
        updates: Number of gradient steps.
        wall_s: Wall-clock time of the finished epochs, in seconds.
        history: Mean loss, accuracy on the augmented training images, seconds, and mean spike rate
            of the last batch, for every epoch.
    """

    epoch: int = 0
    updates: int = 0
    wall_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns KL(teacher || student) of the temperature-scaled class distributions.

    Both arguments are logits [N, classes]. The factor temperature^2 keeps the gradient magnitude
    independent of the temperature.

    Source: Hinton et al. (2015).
    """
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )


def fit(
    network: Network,
    optimizer: torch.optim.Optimizer,
    split: Split,
    recipe: Recipe,
    directory: Path,
    seed: tuple[int, ...],
) -> Counters:
    """Trains a network in place, resuming from the state in the stage's directory, if any.

    The state is saved after every epoch, unless saving takes more than a tenth of the training
    time. `seed` holds the seeds of the run and of the stage.
    """
    first = distributed.is_first()
    network.dropout = recipe.dropout
    apply_masks_(network, recipe.masks)
    counters = _resume(network, optimizer, directory / STATE)
    per_epoch = len(split) // recipe.batch_size
    if per_epoch < 1:
        raise UserError(
            f"the training set has {len(split)} images, fewer than one batch of {recipe.batch_size}"
        )
    activity = distributed.replicated(network)
    saved, cost = 0.0, 0.0  # time of the last save, and its duration in seconds
    with tqdm(
        total=recipe.epochs * per_epoch,
        initial=counters.updates,
        desc=directory.name,
        unit="batch",
        disable=not first,
    ) as bar:
        while counters.epoch < recipe.epochs:
            # the seed that ends in 1 gives the order of the images, so workers use even numbers
            seed_everything(derive_seed(*seed, counters.epoch, 2 * distributed.rank()))
            batches = split.batches(
                recipe.batch_size,
                generator=torch.Generator().manual_seed(derive_seed(*seed, counters.epoch, 1)),
                augment=True,
                drop_last=True,
                shard=(distributed.rank(), distributed.size()),
            )
            _epoch(network, activity, optimizer, batches, recipe, counters, bar)
            started = time.monotonic()
            due = cost < _FAST_S or started - saved >= 10 * cost
            if first and (due or counters.epoch == recipe.epochs):
                meta = {"counters": counters.to_json()}
                save_checkpoint(directory / STATE, _state(network, optimizer), meta)
                saved = time.monotonic()
                cost = saved - started
    network.eval()
    return counters


def _epoch(
    network: Network,
    activity: distributed.Activity,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    counters: Counters,
    bar: "tqdm[None]",
) -> None:
    """Trains a network for one epoch and updates the counters."""
    started = time.monotonic()
    network.train()
    weight = network.head.weight
    # sums of losses and hits stay on the device: reading them would synchronize with the GPU
    sums = torch.zeros(2, dtype=torch.float64, device=weight.device)
    seen, rates = 0, torch.zeros(1)
    for images, labels in batches:
        images, labels = images.to(weight), labels.to(weight.device)
        lr = recipe.rate(counters.updates / bar.total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss, logits, rates = backward(network, activity, images, labels, recipe)
        optimizer.step()
        network.clamp_()
        apply_masks_(network, recipe.masks)
        counters.updates += 1
        seen += len(labels)
        hits = (logits.argmax(1) == labels).sum()
        sums += torch.stack([loss.double() * len(labels), hits.double()])
        if counters.updates % 10 == 0:
            losses, correct = sums.tolist()
            bar.set_postfix(
                loss=f"{losses / seen:.3f}",
                accuracy=f"{correct / seen:.1%}",
                lr=f"{lr:.1e}",
                spikes=f"{_mean(rates):.3f}",
            )
        bar.update()
    losses, correct = sums.tolist()  # waits for the last step
    seconds = time.monotonic() - started
    counters.epoch += 1
    counters.wall_s += seconds
    losses, correct, images_seen, rate = distributed.total([losses, correct, seen, _mean(rates)])
    counters.history.append(
        {
            "loss": losses / images_seen,
            "accuracy": correct / images_seen,
            "seconds": seconds,
            "spike_rate": rate / distributed.size(),
        }
    )


def backward(
    network: Network,
    activity: distributed.Activity,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accumulates the gradients of one batch, without synchronizing with the GPU.

    If `recipe.window` is set, the loss is computed at the end of each window from the outputs so
    far and averaged over the windows, and `activity` is not used. [STDB] section 2.2 sums these
    losses; the constant factor has no effect on Adam.

    Returns:
        Loss of the last window, outputs [N, classes], and spike rates [hidden layers].
    """
    count = 1
    if isinstance(network, SpikingNetwork) and 0 < recipe.window < network.timesteps:
        count = -(-network.timesteps // recipe.window)
    rates = torch.zeros((), dtype=torch.float64, device=images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bf16):
        targets = None
        if recipe.distill > 0.0:
            assert recipe.teacher is not None
            with torch.no_grad():
                targets = recipe.teacher(images)
        if count > 1:
            assert isinstance(network, SpikingNetwork)
            parts = network.windows(images, recipe.window)
        else:
            parts = iter([activity(images)])
        for outputs, layers in parts:
            logits, loss = outputs, _loss(outputs, labels, targets, recipe)
            with torch.autocast(images.device.type, enabled=False):
                (loss / count).backward()
            rates = rates + activity_rates(layers)
    return loss.detach(), logits.detach(), rates


def _mean(rates: Tensor) -> float:
    values: list[float] = rates.tolist()
    return sum(values) / len(values)


def _loss(logits: Tensor, labels: Tensor, targets: Tensor | None, recipe: Recipe) -> Tensor:
    loss = torch.zeros((), device=logits.device)
    if recipe.distill < 1.0:
        labeled = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss = loss + (1 - recipe.distill) * labeled
    if targets is not None:
        loss = loss + recipe.distill * distillation(logits, targets, recipe.temperature)
    return loss


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    weights = {f"{_NETWORK}{name}": tensor for name, tensor in network.state_dict().items()}
    return weights | moments(optimizer)


def _resume(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> Counters:
    def load(path: Path) -> Counters:
        tensors, meta = load_tensors(path, MAX_STATE)
        weights = {
            n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)
        }
        try:
            network.load_state_dict(weights)
            load_moments(optimizer, tensors)
        except (ValueError, RuntimeError) as error:
            raise DamagedFile(f"{path} is not the state of this stage ({error})") from None
        return Counters.from_json(meta.get("counters"), path)

    first = distributed.is_first()
    if not first:
        distributed.barrier()  # the first worker may rename a damaged file
    counters = load_checkpoint(path, load, writes=first) or Counters()
    if first:
        distributed.barrier()
    return counters
