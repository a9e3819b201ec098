from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from snn_rl.agents import SpikingQNetwork, evaluate
from snn_rl.chain.records import Evaluation
from snn_rl.core.conversion import spike_rates

IMAGES = spaces.Box(0, 255, (1, 29, 29), np.uint8)
ACTIONS = spaces.Discrete(4)
SEED = 100


class FakeGames(VecEnv):
    """Environments whose episodes have known lengths and whose returns encode the actions.

    Later episodes of an environment have the return -1000 and must not be counted.
    """

    def __init__(self, n_envs: int, seed: int, length: Callable[[int], int]):
        self.seeds = range(seed, seed + n_envs)
        self.length = length
        self.metadata = {}
        self.closed = False
        super().__init__(n_envs, IMAGES, ACTIONS)

    def reset(self) -> NDArray[np.uint8]:
        self.step_count = 0
        self.taken: list[list[int]] = [[] for _ in self.seeds]
        return self._obs()

    def step_async(self, actions: NDArray[np.int_]) -> None:
        for taken, action in zip(self.taken, actions, strict=True):
            taken.append(int(action))

    def step_wait(self) -> Any:
        self.step_count += 1
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in self.seeds]
        for i, seed in enumerate(self.seeds):
            length = self.length(seed)
            dones[i] = self.step_count % length == 0
            if dones[i]:
                first = self.step_count == length
                score = spell(self.taken[i]) if first else -1000.0
                infos[i]["episode"] = {"r": score, "l": self.step_count, "t": 0.0}
                infos[i]["TimeLimit.truncated"] = seed % 5 == 0
            elif self.step_count == 2:
                dones[i] = True  # a lost life, which ends an episode in training only
        return self._obs(), np.zeros(self.num_envs, np.float32), dones, infos

    def close(self) -> None:
        self.closed = True

    def _obs(self) -> NDArray[np.uint8]:
        rngs = [np.random.default_rng([seed, self.step_count]) for seed in self.seeds]
        # coarse patterns, because a network averages fine noise
        return np.stack(
            [
                np.kron(rng.integers(2, size=(1, 4, 4)), np.full((1, 8, 8), 255))[:, :29, :29]
                for rng in rngs
            ]
        ).astype(np.uint8)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def spell(actions: list[int]) -> float:
    """Returns a number that is different for every sequence of at most 20 actions."""
    return float(sum((action + 1) * 5**i for i, action in enumerate(actions)))


def varied(seed: int) -> int:
    """Returns a length between 3 and 19 steps."""
    return 3 + seed * 7 % 17


def q_network(timesteps: int | None = None, **options: Any) -> SpikingQNetwork:
    torch.manual_seed(0)
    options |= {"network": "cartpole", "timesteps": timesteps, "bias": True}
    q_net = SpikingQNetwork(IMAGES, ACTIONS, **options)
    with torch.no_grad():
        for layer in [*q_net.network.synapses, q_net.network.head]:
            layer.weight.mul_(5)  # for actions that differ from image to image
    return q_net


def trials(episodes: int = 12, **options: Any) -> Evaluation:
    length = options.pop("length", varied)
    seed = options.pop("seed", SEED)
    q_net = options.pop("q_net", None) or q_network()
    return evaluate(q_net, lambda n, s: FakeGames(n, s, length), episodes, seed, **options)


def greedy_return(q_net: SpikingQNetwork, seed: int) -> float:
    """Plays one episode alone, step by step."""
    env = FakeGames(1, seed, varied)
    obs, actions = env.reset(), []
    for _ in range(varied(seed)):
        with torch.no_grad():
            actions.append(int(q_net(torch.as_tensor(obs)).argmax()))
        obs = env.step(np.array(actions[-1:]))[0]
    return spell(actions)


@pytest.mark.parametrize("side_by_side", [1, 5, 12])
def test_every_episode_is_the_first_of_its_own_environment(side_by_side: int) -> None:
    result = trials(side_by_side=side_by_side)
    assert result.lengths == [varied(SEED + i) for i in range(12)]
    assert result.returns == [greedy_return(q_network(), SEED + i) for i in range(12)]
    assert len({a for r in result.returns for a in np.base_repr(int(r), 5)}) > 1


def test_membrane_potentials_stay_with_their_episode() -> None:
    q_net = q_network(1, carry_state=True)
    expected = []
    for seed in range(SEED, SEED + 12):
        env, state = FakeGames(1, seed, varied), None
        obs, actions = env.reset(), []
        for _ in range(varied(seed)):
            action, _, _, state = q_net.decide(obs, state)
            actions.append(int(action[0]))
            obs, _, dones, _ = env.step(action)
            if dones[0]:  # a lost life
                state = None
        expected.append(spell(actions))
    for side_by_side in (1, 5, 12):
        assert trials(q_net=q_net, side_by_side=side_by_side).returns == expected
    assert trials(q_net=q_network(1)).returns != expected


def test_an_environment_takes_no_step_after_its_episode() -> None:
    steps = [0, 0]

    class Game(gym.Env[NDArray[np.uint8], int]):
        observation_space, action_space = IMAGES, ACTIONS

        def __init__(self, number: int):
            self.number, self.length = number, (3, 8)[number]

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(IMAGES.shape, np.uint8), {}

        def step(self, action: int) -> Any:
            steps[self.number] += 1
            over = steps[self.number] % self.length == 0
            return np.full(IMAGES.shape, 9, np.uint8), 1.0, over, False, {}

    env = DummyVecEnv([lambda: Monitor(Game(0)), lambda: Monitor(Game(1))])
    assert evaluate(q_network(), lambda *_: env, 2, SEED).lengths == steps == [3, 8]
    env.step(np.zeros(2, int))
    assert steps == [4, 9]


def test_short_episodes_are_not_favored() -> None:
    # an environment that restarts would play many episodes of 3 steps beside one of 60
    result = trials(10, length=lambda seed: 60 if seed % 2 else 3, side_by_side=5)
    assert result.lengths == [3, 60] * 5


def test_every_environment_is_closed() -> None:
    made: list[FakeGames] = []

    def make(n_envs: int, seed: int) -> VecEnv:
        made.append(FakeGames(n_envs, seed, varied))
        return made[-1]

    evaluate(q_network(), make, 7, SEED, side_by_side=3)
    assert [(env.num_envs, env.seeds[0]) for env in made] == [(3, 100), (3, 103), (1, 106)]
    assert all(env.closed for env in made)


def test_distinct_episodes_differ_in_their_actions() -> None:
    result = trials(12, length=lambda _: 2)  # more episodes than distinct sequences
    assert result.distinct == len(set(result.returns))
    assert 1 < result.distinct < 12
    q_net = q_network()
    with torch.no_grad():
        q_net.network.head.weight.zero_()  # always the same action; only the lengths differ
    same = trials(12, q_net=q_net, length=lambda seed: 3 + seed % 4)
    assert same.distinct == len(set(same.returns)) == 4


def test_capped_episodes_are_counted() -> None:
    assert trials(12).capped == sum((SEED + i) % 5 == 0 for i in range(12))


def test_random_actions_depend_only_on_the_episode() -> None:
    greedy, one = trials(), trials(epsilon=0.5)
    assert one.returns != greedy.returns
    assert one.returns == trials(epsilon=0.5).returns
    assert one.returns == trials(epsilon=0.5, side_by_side=1).returns
    assert one.returns[4:] == trials(8, epsilon=0.5, seed=SEED + 4).returns
    assert len(set(one.returns)) == 12


def test_poisson_encoding_depends_only_on_the_episodes() -> None:
    q_net = q_network(2, encoding="poisson")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(trials(q_net=q_net))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_epsilon_is_the_fraction_of_random_actions() -> None:
    q_net = q_network()
    with torch.no_grad():
        q_net.network.head.weight.zero_()
        q_net.network.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    counts = np.zeros(4)

    class Counting(FakeGames):
        def step_async(self, actions: NDArray[np.int_]) -> None:
            np.add.at(counts, actions, 1)
            super().step_async(actions)

    evaluate(q_net, lambda n, s: Counting(n, s, lambda _: 200), 20, SEED, epsilon=0.4)
    shares = counts / counts.sum()
    # 4000 actions: the standard error of a fraction is below 0.008
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.7, 0.1], atol=0.04)


@pytest.mark.parametrize("timesteps", [None, 2])
def test_spike_rates_are_averages_over_the_played_states(timesteps: int | None) -> None:
    q_net = q_network(timesteps)
    # each episode has one state, and all states have the same weight
    result = trials(5, q_net=q_net, side_by_side=4, length=lambda _: 1)
    states = torch.as_tensor(FakeGames(5, SEED, varied).reset())
    with torch.no_grad():
        _, layers = q_net.network.activity(q_net.images(states))
    assert result.spike_rates == pytest.approx(spike_rates(layers))
    assert len(result.spike_rates) == len(q_net.network.spec.layers)
    assert max(result.spike_rates) > 0


def test_agreement_is_counted_in_the_states_of_the_agent_s_episodes() -> None:
    agent, other = q_network(1), q_network()
    assert trials().agreement is None
    assert trials(teacher=q_network()).agreement == 1.0, "trials() plays the same network"
    length, same = 25, []
    for seed in range(SEED, SEED + 6):
        game = FakeGames(1, seed, lambda _: length)
        obs = game.reset()
        for step in range(length):
            seen = agent.images(torch.as_tensor(obs))
            with torch.no_grad():
                mine, theirs = (int(q.network(seen).argmax()) for q in (agent, other))
            if step % 10 == 0:
                same.append(mine == theirs)
            game.step_async(np.array([mine]))
            obs = game.step_wait()[0]
    assert 0 < np.mean(same) < 1

    def make(n_envs: int, seed: int) -> FakeGames:
        return FakeGames(n_envs, seed, lambda _: length)

    played = evaluate(agent, make, 6, SEED, side_by_side=4, teacher=other)
    assert played.agreement == np.mean(same)
