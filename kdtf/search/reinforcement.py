"""Reinforcement learning: a controller that learns which choices pay."""

from collections.abc import Sequence

import numpy as np

from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.strategies import Measured
from kdtf.search.strategies import check_positive

__all__ = ["Reinforcement"]

_DECAYS = 0.9, 0.999
_TINY = 1e-8


class Reinforcement:
    """A REINFORCE controller (Williams 1992; Zoph & Le 2017).

    The policy is one softmax for each choice. After each trial its logits
    climb `advantage * grad log p(choices)` with Adam, where the advantage is
    the reward less its moving average, in units of its moving deviation; an
    entropy bonus keeps the policy from settling early. Choices not in force
    learn nothing.

    It needs more trials than evolution: on NAS-Bench-201 about twice as many
    for the same regret. The controller is replayed from the trials each time,
    which takes milliseconds.

    Args:
        learning_rate: Of Adam, for the logits.
        baseline_decay: Of the reward's moving average, in [0, 1).
        entropy: Weight of the entropy bonus, at least 0.
        warmup: Trials that are random, before the policy is asked.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> space = Space({"a": range(2)})
        >>> history = [Measured(point=(i % 2,), reward=i % 2)
        ...            for i in range(100)]
        >>> bool(Reinforcement().probabilities(space, history)[0][1] > 0.9)
        True

    Reference:
        Zoph & Le 2017, https://arxiv.org/abs/1611.01578
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        baseline_decay: float = 0.9,
        entropy: float = 0.01,
        warmup: int = 10,
    ) -> None:
        check_positive("warmup", warmup)
        if (
            not learning_rate > 0
            or not 0 <= baseline_decay < 1
            or not entropy >= 0
        ):
            raise ValueError(
                "`learning_rate` must be above 0, `baseline_decay` in [0, 1), "
                "`entropy` at least 0. Received: "
                f"learning_rate={learning_rate!r}, "
                f"baseline_decay={baseline_decay!r}, entropy={entropy!r}."
            )
        self.learning_rate = learning_rate
        self.baseline_decay = baseline_decay
        self.entropy = entropy
        self.warmup = warmup

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns a sample of the policy.

        Refused samples make it flatter: a policy that has settled would give
        what was tried over and over.
        """
        if len(history) < self.warmup:
            return space.random(rng)
        temperature = 1.0 + attempt / 10
        policy = _softmax(self._logits(space, history) / temperature)
        return tuple(
            int(rng.choice(count, p=row[:count] / row[:count].sum()))
            for count, row in zip(space.counts, policy, strict=True)
        )

    def probabilities(
        self, space: Space, history: Sequence[Measured]
    ) -> list[np.ndarray]:
        """Returns the policy: for each choice how likely each option is.

        Args:
            space: What is searched.
            history: What the controller has learned from.
        """
        policy = _softmax(self._logits(space, history))
        return [
            row[:count] for count, row in zip(space.counts, policy, strict=True)
        ]

    def _logits(self, space: Space, history: Sequence[Measured]) -> np.ndarray:
        """Replays the controller; a row for each choice, padded with -inf."""
        counts = np.array(space.counts)
        exists = np.arange(counts.max()) < counts[:, None]
        logits = np.where(exists, 0.0, -np.inf)
        moment, square = np.zeros(logits.shape), np.zeros(logits.shape)
        # Each choice counts its own steps: where it was not in force it keeps
        # its logits, so that momentum must not move them either.
        steps = np.zeros((len(counts), 1), int)
        baseline, variance = 0.0, 0.0
        for number, one in enumerate(history):
            if number == 0:
                baseline = one.reward
            keep = self.baseline_decay
            baseline = keep * baseline + (1 - keep) * one.reward
            deviation = one.reward - baseline
            variance = keep * variance + (1 - keep) * deviation**2
            advantage = deviation / (np.sqrt(variance) + _TINY)
            learns = [
                i for i, at in enumerate(space.key(one.point)) if at is not None
            ]
            gradient = self._gradient(logits, one.point, advantage)[learns]
            steps[learns] += 1
            moment[learns] += (1 - _DECAYS[0]) * (gradient - moment[learns])
            square[learns] += (1 - _DECAYS[1]) * (gradient**2 - square[learns])
            mean = moment[learns] / (1 - _DECAYS[0] ** steps[learns])
            size = np.sqrt(square[learns] / (1 - _DECAYS[1] ** steps[learns]))
            logits[learns] += self.learning_rate * mean / (size + _TINY)
        return logits

    def _gradient(
        self, logits: np.ndarray, point: Point, advantage: float
    ) -> np.ndarray:
        policy = _softmax(logits)
        taken = np.zeros(logits.shape)
        taken[np.arange(len(point)), list(point)] = 1.0
        log = np.log(np.maximum(policy, _TINY))
        average = np.sum(policy * log, axis=1, keepdims=True)
        gradient = advantage * (taken - policy)
        gradient -= self.entropy * policy * (log - average)
        return gradient


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
