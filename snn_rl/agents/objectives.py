"""Losses of a gradient step: Q-learning, and distillation from a teacher."""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.agents.replay.sequences import SequenceSamples

TD, DISTILL, BOTH = "td", "distill", "distill+td"
OBJECTIVES = (TD, DISTILL, BOTH)


def td_loss(
    q_values: Tensor,
    batch: ReplayBufferSamples,
    q_net: nn.Module,
    q_net_target: nn.Module,
    gamma: float,
    double: bool,
) -> Tensor:
    """Returns the Huber loss of the temporal-difference error.

    Args:
        q_values: Q-values of the batch's observations, [N, actions].
        batch: Transitions; n-step transitions contain their discounts.
        q_net: Online network, which selects the next action if `double` is set.
        q_net_target: Target network, which evaluates the next action.
        gamma: Discount factor.
        double: True to use double DQN targets (van Hasselt et al., 2016).
    """
    with torch.no_grad():
        next_q = q_net_target(batch.next_observations).float()
        if double:
            best = q_net(batch.next_observations).argmax(1, keepdim=True)
            next_value = next_q.gather(1, best)
        else:
            next_value = next_q.amax(1, keepdim=True)
        discounts = gamma if batch.discounts is None else batch.discounts
        target = batch.rewards + (1 - batch.dones) * discounts * next_value
    return F.smooth_l1_loss(q_values.float().gather(1, batch.actions.long()), target)


def sequence_td_loss(
    q_values: Tensor, target_q: Tensor, batch: SequenceSamples, gamma: float, double: bool
) -> Tensor:
    """Returns the Huber loss of the 1-step temporal-difference error in sequences of frames.

    Args:
        q_values: Q-values of the last frames of the sequences, [window, N, actions].
        target_q: Q-values of the target network for the same frames.
        batch: Sequences; the last frame only provides the target of the frame before.
        gamma: Discount factor.
        double: True to use double DQN targets.
    """
    window = slice(-len(q_values), -1)
    actions, rewards, dones, timeouts = (
        rows[window] for rows in (batch.actions, batch.rewards, batch.dones, batch.timeouts)
    )
    with torch.no_grad():
        following = target_q[1:]
        chooser = q_values[1:] if double else following
        value = following.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
        target = rewards + (1 - dones) * gamma * value
    taken = q_values[:-1].gather(2, actions.long().unsqueeze(2)).squeeze(2)
    errors = F.smooth_l1_loss(taken, target, reduction="none")
    # After a time limit, the sequence lacks the final observation of the episode.
    valid = 1 - timeouts
    return (errors * valid).sum() / valid.sum().clamp(min=1.0)


def distill_loss(student_q: Tensor, teacher_q: Tensor, sharpness: float = 3.0) -> Tensor:
    """Returns the Kullback-Leibler divergence between softmax policies over advantages.

        p = softmax(sharpness * A / m),    A = Q - mean_a Q,    m = (|A| + |A|_batch) / 2

    |A| is the teacher's mean absolute advantage in a state and |A|_batch its mean over the batch.
    The advantages of both networks are divided by the teacher's m, so the student learns the
    magnitude of the teacher's preferences and not only their order. Division by |A| alone would
    amplify states in which the choice of action hardly matters.

    Args:
        student_q: Q-values of the student, [N, actions].
        teacher_q: Q-values of the teacher, [N, actions].
        sharpness: Inverse temperature; a large value emphasizes the best action.
    """
    student, teacher = _log_policies(student_q, teacher_q, sharpness)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def distill_losses(student_q: Tensor, teacher_q: Tensor, sharpness: float = 3.0) -> Tensor:
    """Returns the terms of `distill_loss`, [N], whose mean is the loss."""
    student, teacher = _log_policies(student_q, teacher_q, sharpness)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _log_policies(student_q: Tensor, teacher_q: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Returns the logarithms of both policies of `distill_loss`, [N, actions]."""
    teacher = teacher_q.float() - teacher_q.float().mean(1, keepdim=True)
    student = student_q.float() - student_q.float().mean(1, keepdim=True)
    size = teacher.abs().mean(1, keepdim=True)
    scale = sharpness / ((size + size.mean()) / 2 + 1e-6)
    return F.log_softmax(student * scale, 1), F.log_softmax(teacher * scale, 1)


class _QuantileHuber(torch.autograd.Function):
    """See `quantile_huber_loss`. Automatic differentiation takes about three times as long."""

    @staticmethod
    def forward(ctx: Any, quantiles: Tensor, targets: Tensor) -> Tensor:
        count = quantiles.shape[1]
        taus = (torch.arange(count, device=quantiles.device) + 0.5) / count
        errors = targets[:, :, None] - quantiles[:, None, :]
        slopes = errors.clamp(-1, 1)
        losses = slopes * errors.sub_(slopes, alpha=0.5)

        def weighted(terms: Tensor) -> Tensor:
            # |tau - [error < 0]| is tau for positive errors, and 1 - tau for negative errors.
            below = terms * (slopes < 0)
            return taus * terms.sum(1) + (1 - 2 * taus) * below.sum(1)

        size = targets.numel()
        ctx.save_for_backward(weighted(slopes) / -size)
        return weighted(losses).sum() / size

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None


def quantile_huber_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Returns the quantile Huber loss of QR-DQN (Dabney et al., 2018, eq. 10).

    The loss is summed over the quantiles, and averaged over the targets and the batch.

    Args:
        quantiles: Quantiles of the taken actions at the fractions (i + 0.5) / quantiles,
            [N, quantiles].
        targets: Samples of the target distribution, [N, samples]; they receive no gradient.
    """
    loss: Tensor = _QuantileHuber.apply(quantiles, targets)  # type: ignore[no-untyped-call]
    return loss


def quantile_targets(batch: ReplayBufferSamples, next_quantiles: Tensor, gamma: float) -> Tensor:
    """Returns samples of the target distribution, [N, quantiles].

    Args:
        batch: Transitions; n-step transitions contain their discounts.
        next_quantiles: Quantiles of the averaged network for the next observations,
            [N, actions, quantiles]. Their mean selects the next action.
        gamma: Discount factor of transitions without discounts.
    """
    best = next_quantiles.mean(2).argmax(1)
    following = next_quantiles[torch.arange(len(best), device=best.device), best]
    discounts = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * following


def lambda_returns(
    rewards: Tensor,
    ended: Tensor,
    terminated: Tensor,
    next_values: Tensor,
    gamma: float,
    trace_decay: float,
) -> Tensor:
    """Returns the lambda-returns of consecutive steps (Gallici et al., 2024), [steps, n_envs].

    Args:
        rewards: Rewards, [steps, n_envs].
        ended: 1 at the last step of an episode, also at a time limit, [steps, n_envs].
        terminated: 1 at the last step of an episode that has no future rewards, [steps, n_envs].
        next_values: Values of the observations after the steps, [steps, n_envs].
        gamma: Discount factor.
        trace_decay: Lambda, from 0 (1-step returns) to 1.
    """
    returns = torch.empty_like(rewards)
    later = next_values[-1]
    for step in reversed(range(len(rewards))):
        mixed = torch.lerp(next_values[step], later, trace_decay * (1 - ended[step]))
        later = rewards[step] + gamma * (1 - terminated[step]) * mixed
        returns[step] = later
    return returns
