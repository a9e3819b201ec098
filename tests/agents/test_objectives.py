"""The losses, compared with plain loops."""

import math

import numpy as np
import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from snn_rl.agents.objectives import (
    distill_loss,
    lambda_returns,
    quantile_huber_loss,
    quantile_targets,
    td_loss,
)

ROWS, FEATURES, ACTIONS, GAMMA = 32, 5, 4, 0.9


def transitions(n_step: bool) -> ReplayBufferSamples:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 3 * torch.randn(*shape, generator=generator)

    # At the end of an episode, an n-step transition spans fewer than n steps.
    powers = torch.randint(1, 4, (ROWS, 1), generator=generator)
    return ReplayBufferSamples(
        observations=normal(ROWS, FEATURES),
        actions=torch.randint(ACTIONS, (ROWS, 1), generator=generator),
        next_observations=normal(ROWS, FEATURES),
        dones=(torch.rand(ROWS, 1, generator=generator) < 0.3).float(),
        rewards=normal(ROWS, 1),
        discounts=GAMMA**powers if n_step else None,
    )


def networks() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    return nn.Linear(FEATURES, ACTIONS), nn.Linear(FEATURES, ACTIONS)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n_step", [False, True])
@torch.no_grad()
def test_td_loss_equals_a_loop_over_rows(double: bool, n_step: bool) -> None:
    batch, (q_net, target_net) = transitions(n_step), networks()
    total, differing = 0.0, 0
    for i in range(ROWS):
        following = [float(q) for q in target_net(batch.next_observations[i])]
        chosen = following.index(max(following))
        if double:
            own = [float(q) for q in q_net(batch.next_observations[i])]
            differing += chosen != own.index(max(own))
            chosen = own.index(max(own))
        target = float(batch.rewards[i])
        if not batch.dones[i]:
            discount = GAMMA if batch.discounts is None else float(batch.discounts[i])
            target += discount * following[chosen]
        error = abs(float(q_net(batch.observations[i])[batch.actions[i]]) - target)
        total += 0.5 * error**2 if error < 1 else error - 0.5
    loss = td_loss(q_net(batch.observations), batch, q_net, target_net, GAMMA, double)
    assert float(loss) == pytest.approx(total / ROWS, rel=1e-5)
    assert bool(differing) == double  # otherwise the test does not distinguish the targets


def test_td_loss_has_no_gradient_through_the_target() -> None:
    batch, (q_net, target_net) = transitions(False), networks()
    q_values = q_net(batch.observations).detach().requires_grad_()
    td_loss(q_values, batch, q_net, target_net, GAMMA, True).backward()
    assert all(p.grad is None for net in (q_net, target_net) for p in net.parameters())
    assert q_values.grad is not None
    taken = torch.zeros_like(q_values).scatter_(1, batch.actions, 1.0)
    assert ((q_values.grad != 0) == (taken != 0)).all()


def q_values(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(ROWS, ACTIONS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_distill_loss_equals_a_numpy_loop(sharpness: float, scale: float) -> None:
    student, teacher = q_values(0, scale), q_values(1, scale)
    s_rows, t_rows = student.double().numpy(), teacher.double().numpy()
    sizes = [np.abs(t - t.mean()).mean() for t in t_rows]
    total = 0.0
    for s, t, size in zip(s_rows, t_rows, sizes, strict=True):
        unit = (size + np.mean(sizes)) / 2
        p = np.exp(sharpness * (t - t.mean()) / unit)
        q = np.exp(sharpness * (s - s.mean()) / unit)
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    # The loss adds a small constant to the unit, which matters if the teacher's scale is small.
    expected = pytest.approx(total / ROWS, rel=1e-3)
    assert float(distill_loss(student, teacher, sharpness)) == expected


def test_distill_loss_is_zero_only_at_the_teachers_preferences() -> None:
    teacher = q_values(1)
    assert float(distill_loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert float(distill_loss(q_values(0), teacher)) > 0.1


def test_distill_loss_ignores_the_level_of_q() -> None:
    student, teacher = q_values(0), q_values(1)
    reference = float(distill_loss(student, teacher))
    level = q_values(2)[:, :1]
    assert float(distill_loss(student + level, teacher)) == pytest.approx(reference, rel=1e-4)
    assert float(distill_loss(student, teacher - 7)) == pytest.approx(reference, rel=1e-4)


def test_distill_loss_depends_on_the_student_s_scale() -> None:
    student, teacher = q_values(0), q_values(1)
    reference = float(distill_loss(student, teacher))
    assert float(distill_loss(3 * student, teacher)) > 1.5 * reference
    assert float(distill_loss(0.5 * teacher, teacher)) > 0.01
    # Only the ratio of both scales matters.
    assert float(distill_loss(3 * student, 3 * teacher)) == pytest.approx(reference, rel=1e-4)


def test_distill_loss_is_finite_for_a_teacher_without_preferences() -> None:
    student = q_values(0).requires_grad_()
    loss = distill_loss(student, torch.zeros(ROWS, ACTIONS))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(student.grad).all()


# --- quantiles --------------------------------------------------------------------------------


def naive_quantile_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """QR-DQN, equation 10, one pair at a time."""
    rows = []
    for row, samples in zip(quantiles, targets, strict=True):
        for i, quantile in enumerate(row):
            tau = (i + 0.5) / len(row)
            for sample in samples:
                error = sample - quantile
                small = error.abs() <= 1
                huber = 0.5 * error**2 if small else error.abs() - 0.5
                rows.append((1 - tau if error < 0 else tau) * huber)
    return torch.stack(rows).sum() / targets.numel()


@pytest.mark.parametrize(("count", "samples"), [(1, 1), (4, 4), (5, 3)])
def test_quantile_huber_loss_and_gradient_equal_a_loop_over_pairs(count: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    quantiles = 2 * torch.randn(6, count, generator=generator, dtype=torch.float64)
    targets = 2 * torch.randn(6, samples, generator=generator, dtype=torch.float64)
    given = targets.clone()
    slow, fast = (quantiles.clone().requires_grad_() for _ in range(2))
    expected, loss = naive_quantile_loss(slow, targets), quantile_huber_loss(fast, targets)
    torch.testing.assert_close(loss, expected)
    (3 * expected).backward()
    (3 * loss).backward()
    torch.testing.assert_close(fast.grad, slow.grad)
    assert torch.equal(targets, given)


def test_quantiles_that_minimize_the_loss_are_those_of_the_targets() -> None:
    # Far from 0, the Huber loss is linear, and its minimum over wide targets is a quantile.
    targets = torch.arange(0.0, 1_000.0, 10.0).expand(1, -1)
    quantiles = torch.full((1, 4), 500.0, requires_grad=True)
    optimizer = torch.optim.SGD([quantiles], 400.0)
    for _ in range(300):
        optimizer.zero_grad()
        quantile_huber_loss(quantiles, targets).backward()
        optimizer.step()
    assert quantiles[0].tolist() == pytest.approx([120, 370, 620, 870], abs=15)


@pytest.mark.parametrize("n_step", [False, True])
def test_quantile_targets_equal_a_loop_over_rows(n_step: bool) -> None:
    batch, count = transitions(n_step), 3
    following = torch.randn(ROWS, ACTIONS, count, generator=torch.Generator().manual_seed(2))
    targets = quantile_targets(batch, following, GAMMA)
    for i in range(ROWS):
        means = [float(action.mean()) for action in following[i]]
        chosen = following[i, means.index(max(means))]
        expected = batch.rewards[i].expand(count)
        if not batch.dones[i]:
            discount = GAMMA if batch.discounts is None else float(batch.discounts[i])
            expected = expected + discount * chosen
        torch.testing.assert_close(targets[i], expected)


def test_lambda_returns_mix_the_n_step_returns_of_an_episode() -> None:
    torch.manual_seed(0)
    steps, envs, gamma, decay = 6, 3, 0.9, 0.7
    rewards, values = torch.randn(steps, envs), torch.randn(steps, envs)
    ended, terminated = torch.zeros(steps, envs), torch.zeros(steps, envs)
    ended[2, 1] = ended[4, 2] = terminated[4, 2] = 1  # a time limit, and a failure
    found = lambda_returns(rewards, ended, terminated, values, gamma, decay)
    for env in range(envs):
        for start in range(steps):
            # n-step returns up to the end of the episode or of the steps
            returns, total = [], 0.0
            for n, row in enumerate(range(start, steps)):
                total += gamma**n * float(rewards[row, env])
                future = float(values[row, env] * (1 - terminated[row, env]))
                returns.append(total + gamma ** (n + 1) * future)
                if ended[row, env]:
                    break
            weights = [(1 - decay) * decay**n for n in range(len(returns) - 1)]
            weights.append(1 - sum(weights))
            expected = sum(w * each for w, each in zip(weights, returns, strict=True))
            assert float(found[start, env]) == pytest.approx(expected, abs=1e-5)
