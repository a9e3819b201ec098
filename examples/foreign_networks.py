"""Creates the imported networks of docs/results/ablations.md.

    python examples/foreign_networks.py sb3 sb3_cartpole.zip
    python examples/foreign_networks.py ours ours.zip
    python examples/foreign_networks.py plain plain.pth

`sb3` is Stable-Baselines3's DQN("CnnPolicy") on CartPole from pixels, trained until its mean return
over 20 episodes is 495. `ours` is the recorded Pong ANN as a zip of Stable-Baselines3. `plain` is a
PyTorch network with 16, 32, and 256 units and biases, distilled from the recorded ANN on Pong for
five minutes of CPU time, so its quality depends on the machine.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from torch import Tensor, nn

from snn_rl.envs import make_env
from snn_rl.files.checkpoint import load_network

PONG = "PongNoFrameskip-v4"
RECORDED = Path(__file__).parents[1] / "docs" / "results" / "pong-seed0" / "ann.safetensors"
SECONDS = 300  # CPU time for training `plain`


def sb3(path: Path, steps: int = 200_000) -> None:
    """Trains with Stable-Baselines3; only the CartPole environment is ours."""
    env = make_env("CartPole-v1", n_envs=8, seed=1, frame_stack=3)
    games = make_env("CartPole-v1", n_envs=5, seed=900_000, frame_stack=3, training=False)
    model = DQN(
        "CnnPolicy",
        env,
        learning_rate=lambda remaining: 5e-4 * (0.3 + 0.7 * remaining),
        buffer_size=50_000,
        learning_starts=2_000,
        batch_size=64,
        train_freq=1,
        gradient_steps=1,
        n_steps=5,
        target_update_interval=1_000,
        exploration_fraction=20_000 / steps,
        exploration_final_eps=0.02,
        seed=1,
        device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 128}, "net_arch": [64]},
    )
    callback = EvalCallback(
        games,
        n_eval_episodes=20,
        eval_freq=625,
        callback_on_new_best=StopTrainingOnRewardThreshold(495, verbose=1),
    )
    model.learn(steps, callback=callback)
    model.save(path)


def ours(path: Path) -> None:
    """Saves the recorded ANN under Stable-Baselines3's names, with zero biases."""
    network, _ = load_network(RECORDED)
    model = DQN("CnnPolicy", make_env(PONG, frame_stack=4), buffer_size=100, device="cpu")
    places = ["features_extractor.cnn.0", "features_extractor.cnn.2", "features_extractor.cnn.4"]
    places += ["features_extractor.linear.0", "q_net.0"]
    weights = model.q_net.state_dict()
    for place, layer in zip(places, [*network.synapses, network.head], strict=True):
        assert isinstance(layer.weight, Tensor)
        weights[f"{place}.weight"] = layer.weight.detach()
        weights[f"{place}.bias"] = torch.zeros_like(weights[f"{place}.bias"])
    model.q_net.load_state_dict(weights)
    model.save(path)


def plain(path: Path) -> None:
    """Distills the recorded ANN, first in the ANN's episodes and then in its own."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    teacher, _ = load_network(RECORDED)
    convolutions = [nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU()]
    dense = [nn.Flatten(), nn.Linear(2592, 256), nn.ReLU(), nn.Linear(256, 6)]
    student = nn.Sequential(*convolutions, *dense)
    optimizer = torch.optim.Adam(student.parameters())
    env = make_env(PONG, n_envs=8, seed=7, frame_stack=4)
    observations = env.reset()
    seen: list[np.ndarray] = []
    labels: list[Tensor] = []
    start, step = time.process_time(), 0
    while (used := (time.process_time() - start) / SECONDS) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * (1 - used) + 1e-6
        images = torch.as_tensor(observations).float() / 255
        with torch.no_grad():
            values = teacher(images)
            actions = (values if step < 1_500 else student(images)).argmax(1).numpy()
        seen, labels = [*seen[-3_999:], np.array(observations)], [*labels[-3_999:], values]
        explores = rng.random(8) < 0.03
        actions[explores] = rng.integers(6, size=explores.sum())
        observations = env.step(actions)[0]
        step += 1
        if step < 100:
            continue
        rows, columns = rng.integers(len(seen), size=64), rng.integers(8, size=64)
        pairs = list(zip(rows, columns, strict=True))
        batch = torch.as_tensor(np.stack([seen[r][c] for r, c in pairs])).float() / 255
        wanted, found = torch.stack([labels[r][c] for r, c in pairs]), student(batch)
        mine, its = (20 * (q - q.mean(1, keepdim=True)) for q in (found, wanted))
        loss = F.smooth_l1_loss(mine, its) + F.mse_loss(found.mean(1), wanted.mean(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(student.state_dict(), path)


def main() -> None:
    """Creates the requested network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    makers = {"sb3": sb3, "ours": ours, "plain": plain}
    parser.add_argument("which", choices=makers)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    makers[options.which](options.path)


if __name__ == "__main__":
    main()
