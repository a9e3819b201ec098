"""Statistics over several runs of several tasks.

Scores are aggregated as in R. Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of
the Statistical Precipice*: the mean of the middle half, with percentile bootstrap intervals over
the runs, stratified by task. The authors' package rliable is not used because it requires pandas,
SciPy, seaborn, and statsmodels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS = 10_000

Scores = NDArray[np.float64]


def interquartile_mean(scores: Scores) -> Scores:
    """Returns the mean of the middle half of the scores.

    A quarter of the scores, rounded down, is dropped at each end. With fewer than four scores,
    the result is the mean of all scores.

    Args:
        scores: Scores of shape [..., N], with N at least 1.

    Returns:
        Means of shape [...].
    """
    count = scores.shape[-1]
    cut = count // 4
    middle: Scores = np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return middle


def stratified_interval(tasks: Sequence[Scores]) -> tuple[float, float]:
    """Returns the 95% confidence interval of the interquartile mean over all tasks.

    The percentile bootstrap (10,000 draws, fixed seed) resamples the runs of each task with
    replacement.

    Args:
        tasks: Scores of the runs of each task, of shape [N].
    """
    rng = np.random.default_rng(0)
    draws = [rng.choice(scores, (_DRAWS, len(scores))) for scores in tasks]
    low, high = np.percentile(interquartile_mean(np.concatenate(draws, axis=1)), [2.5, 97.5])
    return float(low), float(high)


def probability_of_improvement(
    tasks: Sequence[tuple[Scores, Scores]],
) -> tuple[float, float, float]:
    """Returns the probability that a run of X scores higher than a run of Y, with its interval.

    The probability is the mean over the tasks; ties count one half (Agarwal et al., 2021).

    Args:
        tasks: Scores of the runs of X and Y on each task, of shapes [N] and [M].

    Returns:
        Probability, and the ends of its 95% confidence interval (bootstrap over the runs of each
        task, 10,000 draws, fixed seed).
    """
    rng = np.random.default_rng(0)

    def wins(x: Scores, y: Scores) -> Scores:
        difference = x[..., :, None] - y[..., None, :]
        result: Scores = ((np.sign(difference) + 1) / 2).mean(axis=(-2, -1))
        return result

    probability = float(np.mean([wins(x, y) for x, y in tasks]))
    draws = [
        wins(rng.choice(x, (_DRAWS, len(x))), rng.choice(y, (_DRAWS, len(y)))) for x, y in tasks
    ]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return probability, float(low), float(high)
