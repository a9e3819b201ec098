"""Training, prediction and files of `SpikingDQN`."""

import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import Tensor

from snn_rl.agents import SpikingDQN
from snn_rl.agents.objectives import OBJECTIVES
from snn_rl.agents.policies import network_spec
from snn_rl.core.conversion import spike_rates
from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork
from snn_rl.files.checkpoint import load_tensors, save_network, save_tensors
from snn_rl.utils.errors import UserError

MakeCatch = Callable[..., VecEnv]


def make_model(env: VecEnv, timesteps: int | None = None, **kwargs: Any) -> SpikingDQN:
    policy_kwargs = {"network": "8c6s6-8c3s2-16", "timesteps": timesteps, "bias": True}
    settings: dict[str, Any] = {
        "learning_rate": 1e-3,
        "buffer_size": 200,
        "learning_starts": 16,
        "batch_size": 16,
        "train_freq": 2,
        "target_update_interval": 10,
        "seed": 0,
        "device": "cpu",
    }
    policy_kwargs |= kwargs.pop("policy_kwargs", {})
    model = SpikingDQN("SpikingDQNPolicy", env, policy_kwargs=policy_kwargs, **settings | kwargs)
    if isinstance(model.network, SpikingNetwork):
        with torch.no_grad():
            for neuron in model.network.neurons:
                neuron.v_threshold.fill_(0.05)  # an untrained network fires
                neuron.leak.fill_(0.9)  # inside its range
        model.q_net_target.load_state_dict(model.q_net.state_dict())
    return model


def copies(model: SpikingDQN) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.tensors().items()}


def images(model: SpikingDQN, count: int = 8) -> Tensor:
    env = model.get_env()
    assert env is not None
    return torch.as_tensor(np.concatenate([env.reset() for _ in range(count)]))


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("double", [False, True])
def test_every_objective_trains_all_parameters(
    make_catch: MakeCatch, objective: str, double: bool
) -> None:
    env = make_catch()
    teacher = make_model(env).network
    model = make_model(env, 3, objective=objective, teacher=teacher, double=double, n_steps=3)
    before = {name: p.clone() for name, p in model.q_net.named_parameters()}
    taught = {name: p.clone() for name, p in teacher.named_parameters()}
    model.learn(100)
    changed = {
        name for name, p in model.q_net.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed == set(before), "weights, biases, thresholds and leaks are trained"
    assert np.isfinite(model.last_loss)
    assert isinstance(model.network, SpikingNetwork)
    for neuron in model.network.neurons:
        assert neuron.v_threshold.item() > 0
        assert 0 <= neuron.leak.item() <= 1
    for name, p in teacher.named_parameters():
        assert torch.equal(p, taught[name]), "the teacher does not change"


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_new_spiking_agent_fires_and_learns(
    make_catch: MakeCatch, timesteps: int, seed: int
) -> None:
    model = SpikingDQN(
        "SpikingCnnPolicy",
        make_catch(),
        policy_kwargs={"network": "16c5s2-32c5s2-64", "timesteps": timesteps},
        learning_starts=16,
        buffer_size=200,
        seed=seed,
        device="cpu",
    )
    obs = images(model)
    assert float((obs > 0).float().mean()) < 0.1, "Catch is nearly black, like many games"
    with torch.no_grad():
        q_values, layers = model.network.activity(model.q_net.images(obs))
    rates = [rate / timesteps for rate in spike_rates(layers)]
    assert all(0.02 < rate < 0.6 for rate in rates)
    assert (q_values.std(0) > 0).all()
    weights = [*model.network.synapses.parameters(), model.network.head.weight]
    before = [weight.clone() for weight in weights]
    model.learn(60)
    assert not any(torch.equal(*pair) for pair in zip(weights, before, strict=True))


def test_thresholds_stay_positive_at_a_large_learning_rate(make_catch: MakeCatch) -> None:
    model = make_model(make_catch(), 3, learning_rate=1.0)
    model.learn(40)
    assert isinstance(model.network, SpikingNetwork)
    thresholds = [neuron.v_threshold.item() for neuron in model.network.neurons]
    leaks = [neuron.leak.item() for neuron in model.network.neurons]
    assert min(thresholds) >= MIN_THRESHOLD * (1 - 1e-6)
    assert all(0 <= leak <= 1 for leak in leaks)
    assert not all(0.04 < v < 0.06 for v in thresholds), "the steps were large"


@pytest.mark.parametrize("objective", ["distill", "distill+td"])
def test_distillation_requires_a_teacher(make_catch: MakeCatch, objective: str) -> None:
    with pytest.raises(ValueError, match="teacher"):
        make_model(make_catch(), 1, objective=objective).learn(40)


def test_unknown_objective_is_rejected(make_catch: MakeCatch) -> None:
    with pytest.raises(ValueError, match="objective"):
        make_model(make_catch(), objective="imitate")


def test_bf16_keeps_float32_weights(make_catch: MakeCatch) -> None:
    model = make_model(make_catch(), 2, bf16=True)
    before = copies(model)
    model.learn(40)
    assert np.isfinite(model.last_loss)
    assert all(p.dtype == torch.float32 for p in model.policy.parameters())
    assert not torch.equal(
        model.tensors()["policy.q_net.network.head.weight"],
        before["policy.q_net.network.head.weight"],
    )


def test_same_seed_gives_the_same_weights(make_catch: MakeCatch) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        return make_model(make_catch(seed=0), 2, seed=seed).learn(60).tensors()

    one, same, other = run(1), run(1), run(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_target_network_is_updated_at_its_interval(make_catch: MakeCatch) -> None:
    model = make_model(make_catch(n_envs=1), 2, train_freq=1, target_update_interval=50)
    before = copies(model)
    model.learn(49)
    weight = "network.head.weight"
    target = model.q_net_target.state_dict()
    assert torch.equal(target[weight], before[f"policy.q_net_target.{weight}"])
    assert not torch.equal(target[weight], model.q_net.state_dict()[weight])
    model.learn(1, reset_num_timesteps=False)
    target = model.q_net_target.state_dict()
    assert not torch.equal(target[weight], before[f"policy.q_net_target.{weight}"])


# --- Stable-Baselines3 ------------------------------------------------------------------------


def test_callbacks_and_evaluate_policy_work(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(), 1)
    evaluator = EvalCallback(
        make_catch(seed=10),
        n_eval_episodes=3,
        eval_freq=20,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    model.learn(100, callback=evaluator)
    assert np.isfinite(evaluator.best_mean_reward)
    assert list(tmp_path.iterdir()) == [tmp_path / "best_model.safetensors"]
    assert not zipfile.is_zipfile(tmp_path / "best_model.safetensors")
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(4))
    assert model.num_timesteps < 100
    returns, lengths = evaluate_policy(
        model, make_catch(seed=20), n_eval_episodes=5, return_episode_rewards=True
    )
    assert lengths == [6] * 5
    assert set(returns) <= {-1.0, 1.0}


@pytest.mark.parametrize("timesteps", [None, 3])
def test_predict_is_greedy_if_deterministic(make_catch: MakeCatch, timesteps: int | None) -> None:
    model = make_model(make_catch(), timesteps)
    obs = images(model)
    with torch.no_grad():
        best = model.q_net(obs).argmax(1).numpy()
    actions, _ = model.predict(obs.numpy(), deterministic=True)
    assert (actions == best).all()
    model.exploration_rate = 1.0
    sampled = np.stack([model.predict(obs.numpy(), deterministic=False)[0] for _ in range(20)])
    assert (sampled != best).any()


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [None, 1, 3])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_load_restores_what_save_wrote(
    make_catch: MakeCatch,
    tmp_path: Path,
    timesteps: int | None,
    optimizer: type[torch.optim.Optimizer],
) -> None:
    model = make_model(
        make_catch(),
        timesteps,
        double=True,
        gamma=0.9,
        n_steps=2,
        sharpness=2.0,
        policy_kwargs={"optimizer_class": optimizer, "optimizer_kwargs": {"eps": 1e-4}},
    )
    model.learn(60)
    model.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=make_catch(), device="cpu")

    obs = images(model)
    assert torch.equal(loaded.q_net(obs), model.q_net(obs))
    assert torch.equal(loaded.q_net_target(obs), model.q_net_target(obs))
    expected, found = model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert expected["state"], "the optimizer has no state"
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for index, moments in expected["state"].items():
        assert found["state"][index].keys() == moments.keys()
        for key, value in moments.items():
            restored = found["state"][index][key]
            assert torch.equal(restored, value)
            # The memory layout decides the order of the sums in an update.
            assert restored.stride() == value.stride()
    for name in ("double", "gamma", "n_steps", "sharpness", "num_timesteps", "_n_updates"):
        assert getattr(loaded, name) == getattr(model, name)
    assert type(loaded.network) is type(model.network)
    assert loaded.network.spec == model.network.spec


def test_loaded_agent_takes_the_same_next_step(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(), 2)
    model.learn(60)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = SpikingDQN.load(tmp_path / "agent", env=make_catch(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    for agent in (model, loaded):
        agent.set_logger(model.logger)
        agent._current_progress_remaining = 1.0
        np.random.seed(0)
        agent.train(gradient_steps=3, batch_size=16)
    expected = model.tensors()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.tensors().items())


@pytest.mark.parametrize("timesteps", [None, 2])
def test_load_reads_the_network_of_a_stage(
    make_catch: MakeCatch, tmp_path: Path, timesteps: int | None
) -> None:
    model = make_model(make_catch(), timesteps, policy_kwargs={"frames": 1})
    save_network(tmp_path / "network.safetensors", model.network, {"stage": "any"})
    loaded = SpikingDQN.load(tmp_path / "network.safetensors", make_catch(), "cpu", gamma=0.5)
    obs = images(model)
    assert torch.equal(loaded.q_net(obs), model.q_net(obs))
    assert torch.equal(loaded.q_net_target(obs), model.q_net(obs))
    assert loaded.gamma == 0.5
    loaded.save(tmp_path / "agent")
    again = SpikingDQN.load(tmp_path / "agent", make_catch(), "cpu")
    assert torch.equal(again.q_net(obs), model.q_net(obs))
    with pytest.raises(UserError, match="does not fit"):
        SpikingDQN.load(tmp_path / "network.safetensors", make_other(actions=4))


def test_load_replaces_settings(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(), 1)
    model.save(tmp_path / "agent")
    teacher = make_model(make_catch()).network
    loaded = SpikingDQN.load(
        tmp_path / "agent", env=make_catch(), objective="distill", teacher=teacher, gamma=0.5
    )
    loaded.learn(40)
    assert loaded.gamma == 0.5
    assert np.isfinite(loaded.last_loss)


def test_load_restores_the_training_frequency(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(n_envs=1), train_freq=(2, "episode"))
    model.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=make_catch(n_envs=1))
    assert loaded.train_freq == model.train_freq and loaded.train_freq.unit.value == "episode"


def test_load_warns_about_a_missing_schedule(make_catch: MakeCatch, tmp_path: Path) -> None:
    def halving(remaining: float) -> float:
        return 1e-3 * (1 + remaining) / 2

    make_model(make_catch(), learning_rate=halving).save(tmp_path / "agent")
    with pytest.warns(UserWarning, match=r"0\.001 unless learning_rate="):
        SpikingDQN.load(tmp_path / "agent", env=make_catch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = SpikingDQN.load(tmp_path / "agent", env=make_catch(), learning_rate=halving)
        assert loaded.lr_schedule(0.0) == 5e-4
        make_model(make_catch()).save(tmp_path / "constant")
        SpikingDQN.load(tmp_path / "constant", env=make_catch())


def test_files_contain_no_pickles(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(), 1)
    model.learn(30)
    model.save(tmp_path / "agent")
    (path,) = tmp_path.iterdir()
    assert path.name == "agent.safetensors"
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(model.tensors())
    assert not zipfile.is_zipfile(path)
    with path.open("rb") as stream, pytest.raises(Exception, match=r"."):
        pickle.load(stream)


def make_other(**changes: Any) -> VecEnv:
    """Builds an environment with other images or actions."""
    shape, actions = changes.get("shape", (2, 42, 30)), changes.get("actions", 3)

    class Other(gym.Env[Any, int]):
        observation_space = spaces.Box(0, 255, shape, np.uint8)
        action_space = spaces.Discrete(actions)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample(), {}

    return make_vec_env(Other)


@pytest.mark.parametrize(
    "changes",
    [{"actions": 4}, {"shape": (3, 42, 30)}, {"shape": (2, 84, 84)}, {"shape": (2, 20, 20)}],
    ids=["actions", "channels", "larger", "too small"],
)
def test_environment_of_other_shapes_is_rejected(
    make_catch: MakeCatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = make_model(make_catch())
    model.save(tmp_path / "agent")
    with pytest.raises(UserError) as caught:
        SpikingDQN.load(tmp_path / "agent", env=make_other(**changes))
    assert "\n" not in str(caught.value)


def test_network_of_other_shapes_is_rejected(make_catch: MakeCatch) -> None:
    model = make_model(make_catch())
    other = make_model(make_other(actions=4))
    with pytest.raises(UserError, match="does not fit"):
        model.load_network(other.network)


def test_load_network_updates_the_target_network(make_catch: MakeCatch) -> None:
    source = AnalogNetwork(make_model(make_catch()).network.spec)
    model = make_model(make_catch())
    model.load_network(source)
    for network in (model.q_net.network, model.q_net_target.network):
        for name, tensor in source.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_damaged_file_is_rejected(make_catch: MakeCatch, tmp_path: Path, keep: int) -> None:
    make_model(make_catch()).save(tmp_path / "agent")
    path = tmp_path / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"agent\.safetensors"):
        SpikingDQN.load(tmp_path / "agent", env=make_catch())


def note_of(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, note = load_tensors(path)
    del note["schema"]
    return tensors, note


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings.buffer_size", 10**8),
        ("settings.buffer_size", "200"),
        ("settings.gamma", None),
        ("settings.batch_size", True),
        ("settings.n_steps", 0),
        ("settings.objective", 5),
        ("settings.objective", "other"),
        ("settings.train_freq", [1, "year"]),
        ("settings", []),
        ("policy_kwargs.network", "40000"),
        ("policy_kwargs.network", "no such network"),
        ("policy_kwargs.network", {"layers": []}),
        ("policy_kwargs.network", 3),
        ("policy_kwargs.timesteps", 10**8),
        ("policy_kwargs.timesteps", "1"),
        ("policy_kwargs.surrogate", ["linear"]),
        ("policy_kwargs.frames", 3),
        ("policy_kwargs.frames", "1"),
        ("policy_kwargs.color", "red"),
        ("optimizer", "SGD"),
        ("optimizer_kwargs", {"eps": "small"}),
        ("optimizer_kwargs", {"betas": [0.9]}),
        ("optimizer_kwargs", {"lr": 0.1}),
        ("optimizer_kwargs", {"capturable": True}),
        ("num_timesteps", "40"),
        ("n_updates", -1),
    ],
    ids=str,
)
def test_changed_note_is_rejected_at_once(
    make_catch: MakeCatch, tmp_path: Path, key: str, value: Any
) -> None:
    path = tmp_path / "agent.safetensors"
    make_model(make_catch(), 2).save(path)
    tensors, note = note_of(path)
    section, _, name = key.rpartition(".")
    (note[section] if section else note)[name] = value
    save_tensors(path, tensors, note)
    env = make_catch()
    started = time.process_time()
    with pytest.raises(UserError, match=r"agent\.safetensors"):
        SpikingDQN.load(path, env=env)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.0.exp_avg", None),
        ("optimizer.0.other", torch.zeros(())),
        ("optimizer.99.step", torch.zeros(())),
        ("optimizer.x.step", torch.zeros(())),
        ("optimizer.0.exp_avg", torch.zeros(2)),
        ("optimizer.0.exp_avg", torch.zeros((), dtype=torch.int64)),
        ("policy.q_net.network.neurons.0.v_threshold", torch.tensor(-1.0)),
        ("policy.q_net.network.neurons.0.leak", torch.tensor(7.0)),
        ("policy.q_net.network.neurons.0.leak", torch.tensor(1)),
        ("policy.q_net.network.neurons.0.leak", torch.tensor(float("nan"))),
        ("policy.q_net.network.head.weight", None),
    ],
    ids=str,
)
def test_changed_tensors_are_rejected(
    make_catch: MakeCatch, tmp_path: Path, name: str, value: Tensor | None
) -> None:
    path = tmp_path / "agent.safetensors"
    model = make_model(make_catch(), 2)
    model.learn(40)
    model.save(path)
    tensors, note = note_of(path)
    tensors |= {name: value}  # type: ignore[dict-item]
    save_tensors(path, {key: t for key, t in tensors.items() if t is not None}, note)
    with pytest.raises(UserError, match=r"does not fit|the checkpoint"):
        SpikingDQN.load(path, env=make_catch())


class Spaces(gym.Env[Any, Any]):
    """An environment with any spaces."""

    def __init__(self, observations: spaces.Space[Any], actions: spaces.Space[Any]):
        self.observation_space, self.action_space = observations, actions


IMAGES = spaces.Box(0, 255, (3, 84, 84), np.uint8)


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        (spaces.Box(0, 1, (3, 84, 84), np.float32), spaces.Discrete(3), "must be uint8 images"),
        (spaces.Box(0, 1, (64, 64, 3), np.float32), spaces.Discrete(3), "must be uint8 images"),
        (spaces.Box(0, 1, (3, 84, 84), np.uint8), spaces.Discrete(3), "must be uint8 images"),
        (spaces.Box(0, 255, (84, 84), np.uint8), spaces.Discrete(3), "must be uint8 images"),
        (IMAGES, spaces.Discrete(3, start=1), "start at 0"),
    ],
    ids=str,
)
def test_other_spaces_are_rejected_at_construction(
    observations: spaces.Space[Any], actions: spaces.Space[Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        SpikingDQN("SpikingCnnPolicy", Spaces(observations, actions), buffer_size=10)
    assert "\n" not in str(caught.value)


def test_normalized_images_are_rejected_at_construction() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Spaces(IMAGES, spaces.Discrete(3))]))
    with pytest.raises(ValueError, match="VecNormalize"):
        SpikingDQN("SpikingCnnPolicy", env, buffer_size=10)


def test_channels_come_first() -> None:
    last = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    model = SpikingDQN("SpikingCnnPolicy", Spaces(last, spaces.Discrete(3)), buffer_size=10)
    assert model.network.spec.input_shape == (3, 84, 84)
    with pytest.raises(ValueError, match="VecTransposeImage"):
        network_spec("mnih", last, spaces.Discrete(3), bias=False)


def test_unsupported_arguments_of_load_and_save(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch())
    model.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="requires env"):
        SpikingDQN.load(tmp_path / "agent")
    with pytest.raises(ValueError, match="does not support exclude"):
        model.save(tmp_path / "agent", exclude=["policy"])
