"""What a gradient step minimises: Q-learning, distillation from the ANN, or both."""

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Huber loss of the temporal-difference error.

    Args:
        q_values: Of the batch's observations, [N, actions].
        batch: Transitions; n-step ones carry their discounts.
        q_net: The learning network; it chooses the next action if `double`.
        q_net_target: The target network, which values it.
        gamma: Discount of one step.
        double: The double-DQN target (van Hasselt et al., 2016).
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


def distill_loss(student_q: Tensor, teacher_q: Tensor, sharpness: float = 3.0) -> Tensor:
    """Kullback-Leibler divergence between the policies that two advantage functions imply.

        p = softmax(sharpness * A / m),    A = Q - mean_a Q,    m = (|A| + |A|_batch) / 2

    with |A| the teacher's mean absolute advantage in a state, and |A|_batch its mean over the
    batch. Both networks' advantages are divided by the teacher's m, so that the student's scale is
    not free: it has to reach the teacher's preferences, not only their order. Dividing by |A| alone
    blows up the states in which it hardly matters what the agent does.

    Args:
        student_q: [N, actions].
        teacher_q: [N, actions].
        sharpness: Larger looks at the best action more than at the others.
    """
    teacher = teacher_q.float() - teacher_q.float().mean(1, keepdim=True)
    student = student_q.float() - student_q.float().mean(1, keepdim=True)
    size = teacher.abs().mean(1, keepdim=True)
    scale = sharpness / ((size + size.mean()) / 2 + 1e-6)
    return F.kl_div(
        F.log_softmax(student * scale, 1),
        F.log_softmax(teacher * scale, 1),
        reduction="batchmean",
        log_target=True,
    )
