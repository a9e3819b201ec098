"""Fits one network to labelled images; it survives kill -9 and ends bit-identical.

The weights and the optimizer's state are written after every epoch, unless writing takes more than
a tenth of the time. An epoch draws all its random numbers (order, augmentation, dropout, Poisson
spikes) from a generator seeded by (seed, stage, epoch), so interrupted epochs are simply begun
again. With several workers (`distributed`) each has its share of every batch, and dropout and
Poisson spikes of its own.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from snn_rl.core.conversion import activity_rates, apply_masks_
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.atomic import remove_temporaries
from snn_rl.files.checkpoint import load_tensors, save_tensors
from snn_rl.files.optimizer_state import load_moments, moments
from snn_rl.images import distributed
from snn_rl.images.data.datasets import Split
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed, seed_everything

STATE = "state.safetensors"
_CHEAP_S = 0.5  # a state that is written faster is written after every epoch
_NETWORK = "network."


def steps(progress: float, milestones: Sequence[float], decay: float = 0.2) -> float:
    """Times `decay` after each milestone: 1/5 in [IIR] A.2.2, 1/10 in [ULL] IV-A."""
    return float(decay ** sum(progress >= milestone for milestone in milestones))


def cosine(progress: float, milestones: Sequence[float], decay: float = 0.2) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def onecycle(
    progress: float, milestones: Sequence[float], decay: float = 0.2, rise: float = 0.25
) -> float:
    """Up in a line from 0 to 1, then down a cosine to 0 (Smith and Topin, 2019)."""
    if progress < rise:
        return progress / rise
    return cosine((progress - rise) / (1 - rise), milestones, decay)


# Fraction of the learning rate, by the fraction of the training that is done
SCHEDULES: dict[str, Callable[[float, Sequence[float], float], float]] = {
    "steps": steps,
    "cosine": cosine,
    "onecycle": onecycle,
}


@dataclass(frozen=True)
class Recipe:
    """How to fit.

    Attributes:
        epochs: Passes over the training images.
        rate: Learning rate, by the fraction of the training that is done.
        batch_size: Images of a gradient step, of all workers together.
        dropout: See `Network.dropout`.
        label_smoothing: Of the cross-entropy.
        distill: Weight of the teacher's outputs against the labels, in [0, 1].
        temperature: Of the distillation.
        bf16: Whether to compute in bfloat16 where it is accurate enough (autocast).
        window: Timesteps that gradients reach back at most (truncated BPTT); 0: all of them.
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


@dataclass
class Counters:
    """Where a stage stands.

    Attributes:
        epoch: Epochs finished.
        updates: Gradient steps made.
        wall_s: Seconds spent in finished epochs.
        history: Of every epoch: mean loss, accuracy on the (augmented) training images, seconds,
            and the mean spike rate of its last batch.
    """

    epoch: int = 0
    updates: int = 0
    wall_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened classes (Hinton et al., 2015).

    Args:
        student: Logits [N, classes].
        teacher: Logits [N, classes].
        temperature: Of both; the result is multiplied by its square, so that gradients keep their
            size.
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
    name: str,
    teacher: Network | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Counters:
    """Trains a network, or goes on with what `directory` holds of it.

    Args:
        network: Where training starts; it is trained in place.
        optimizer: Over its parameters.
        split: The training images.
        recipe: How.
        directory: Where the state is kept.
        seed: Of the run and the stage.
        name: For the progress bar.
        teacher: Needed where `recipe.distill` is not 0.
        masks: Of the weights that stay, see `snn_rl.core.conversion.prune`; None: all.

    Raises:
        UserError: The state in `directory` is damaged.
    """
    if distributed.is_first():
        directory.mkdir(parents=True, exist_ok=True)
        remove_temporaries(directory)
    network.dropout = recipe.dropout
    masks = masks or {}
    apply_masks_(network, masks)
    counters = _resume(network, optimizer, directory / STATE)
    per_epoch = len(split) // recipe.batch_size
    if per_epoch < 1:
        raise UserError(f"batches of {recipe.batch_size} from {len(split)} images: too few images")
    total = recipe.epochs * per_epoch
    device = network.head.weight.device
    saving = _Saving()
    activity = distributed.replicated(network)
    with tqdm(
        total=total,
        initial=counters.updates,
        desc=name,
        unit="batch",
        disable=not distributed.is_first(),
    ) as progress:
        while counters.epoch < recipe.epochs:
            started = time.monotonic()
            # 1 behind the epoch is the images' order; the first worker's 0 does not count
            seed_everything(derive_seed(*seed, counters.epoch, 2 * distributed.rank()))
            generator = torch.Generator().manual_seed(derive_seed(*seed, counters.epoch, 1))
            network.train()
            # stay on the device, so that a GPU computes while the next step is prepared
            sums = torch.zeros(2, dtype=torch.float64, device=device)  # of losses, of hits
            seen, rates = 0, torch.zeros(1)
            batches = split.batches(
                recipe.batch_size,
                generator=generator,
                augment=True,
                drop_last=True,
                shard=(distributed.rank(), distributed.size()),
            )
            for images, labels in batches:
                images, labels = images.to(network.head.weight), labels.to(device)
                lr = recipe.rate(counters.updates / total)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.zero_grad(set_to_none=True)
                loss, logits, rates = backward(network, activity, images, labels, recipe, teacher)
                optimizer.step()
                network.clamp_()
                apply_masks_(network, masks)
                counters.updates += 1
                seen += len(labels)
                hits = (logits.argmax(1) == labels).sum()
                sums += torch.stack([loss.double() * len(labels), hits.double()])
                if counters.updates % 10 == 0:
                    loss_sum, correct = sums.tolist()
                    progress.set_postfix(
                        loss=f"{loss_sum / seen:.3f}",
                        accuracy=f"{correct / seen:.1%}",
                        lr=f"{lr:.1e}",
                        spikes=f"{_mean(rates):.3f}",
                    )
                progress.update()
            loss_sum, correct = sums.tolist()  # waits for the epoch's last step
            counters.epoch += 1
            seconds = time.monotonic() - started
            counters.wall_s += seconds
            loss_sum, correct, images_seen, rate = distributed.total(
                [loss_sum, correct, seen, _mean(rates)]
            )
            counters.history.append(
                {
                    "loss": loss_sum / images_seen,
                    "accuracy": correct / images_seen,
                    "seconds": seconds,
                    "spike_rate": rate / distributed.size(),
                }
            )
            if distributed.is_first() and (counters.epoch == recipe.epochs or saving.is_due()):
                with saving:
                    save_tensors(
                        directory / STATE, _state(network, optimizer), {"counters": vars(counters)}
                    )
    network.eval()
    return counters


def backward(
    network: Network,
    activity: distributed.Activity,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    teacher: Network | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adds the gradients of one batch to the network's parameters.

    With a window, there is a loss at the end of every window, of the outputs by the timesteps so
    far, and the gradients are those of its mean over the windows ([STDB] section 2.2 adds them up:
    a constant apart, which Adam does not see).

    Args:
        network: In training mode.
        activity: Calls it, see `distributed.replicated`; windows are for one worker only.
        images: [N, channels, height, width].
        labels: [N].
        recipe: What the loss is.
        teacher: Needed where `recipe.distill` is not 0.

    Returns:
        The loss at the end, the outputs [N, classes], and the spike rates [hidden layers], all on
        the device: nothing here waits for a GPU.
    """
    count = 1
    if isinstance(network, SpikingNetwork) and 0 < recipe.window < network.timesteps:
        count = -(-network.timesteps // recipe.window)
    rates = torch.zeros((), dtype=torch.float64, device=images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bf16):
        targets = None
        if recipe.distill > 0.0:
            assert teacher is not None
            with torch.no_grad():
                targets = teacher(images)
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


class _Saving:
    """Decides whether a state is written, from how long the last one took."""

    def __init__(self) -> None:
        self._seconds, self._ended = 0.0, 0.0

    def is_due(self) -> bool:
        """Whether writing takes at most a tenth of the time, or next to none."""
        since = time.monotonic() - self._ended
        return self._seconds < _CHEAP_S or since >= 10 * self._seconds

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._ended = time.monotonic()
        self._seconds = self._ended - self._started


def _mean(rates: Tensor) -> float:
    values: list[float] = rates.tolist()
    return sum(values) / len(values)


def _loss(logits: Tensor, labels: Tensor, targets: Tensor | None, recipe: Recipe) -> Tensor:
    loss = torch.zeros((), device=logits.device)
    if recipe.distill < 1.0:
        labelled = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss = loss + (1 - recipe.distill) * labelled
    if targets is not None:
        loss = loss + recipe.distill * distillation(logits, targets, recipe.temperature)
    return loss


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    weights = {f"{_NETWORK}{name}": tensor for name, tensor in network.state_dict().items()}
    return weights | moments(optimizer)


def _resume(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> Counters:
    if not path.exists():
        return Counters()
    tensors, meta = load_tensors(path)
    weights = {n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)}
    try:
        network.load_state_dict(weights)
        load_moments(optimizer, tensors)
        return Counters(**meta["counters"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the state of this stage ({reason})") from None
