"""Statistics over several runs: interquartile means, intervals, probability of improvement."""

import itertools

import numpy as np
import pytest

from snn_rl.reports.statistics import (
    interquartile_mean,
    probability_of_improvement,
    stratified_interval,
)


@pytest.mark.parametrize("count", range(1, 14))
def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    remaining = sorted(scores.tolist())
    for _ in range(count // 4):
        remaining.remove(min(remaining))
        remaining.remove(max(remaining))
    assert interquartile_mean(scores) == pytest.approx(sum(remaining) / len(remaining))


def test_the_interval_covers_the_possible_draws() -> None:
    # the mean of two draws is 0, 1 or 2 with probability 1/4, 1/2, 1/4
    assert stratified_interval([np.array([0.0, 2.0])]) == (0.0, 2.0)
    # every draw has two scores of each task, which are equal
    scores = [np.array([0.0, 0.0]), np.array([10.0, 10.0])]
    assert stratified_interval(scores) == (5.0, 5.0)
    low, high = stratified_interval([np.concatenate(scores)])
    assert low < 5.0 < high


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = stratified_interval([rng.normal(3.0, 1.0, 40)])
        covered += low <= 3.0 <= high
    assert 85 <= covered <= 100


def test_the_probability_of_improvement_counts_pairs_of_runs() -> None:
    rng = np.random.default_rng(0)
    tasks = [(rng.integers(9, size=3) / 2, rng.integers(9, size=4) / 2) for _ in range(3)]
    wins = [np.mean([(a > b) + (a == b) / 2 for a, b in itertools.product(x, y)]) for x, y in tasks]
    probability, low, high = probability_of_improvement(tasks)
    assert probability == pytest.approx(np.mean(wins))
    assert 0 <= low < probability < high <= 1
    # Every draw of a task with one run is that run.
    single = [(np.array([1.0]), np.array([0.0])), (np.array([2.0]), np.array([2.0]))]
    assert probability_of_improvement(single) == (0.75, 0.75, 0.75)
