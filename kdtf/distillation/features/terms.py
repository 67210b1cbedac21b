"""What of a teacher's inner workings a student learns: one class each.

Each is a frozen record of settings, to be given to a `Distiller` as one of
its `features`. `FeatureMatcher` brings them together with the two models.
"""

import dataclasses
import math
from typing import Any
from typing import ClassVar

import keras
from keras import ops

from kdtf.distillation import checks
from kdtf.distillation.features import attention
from kdtf.distillation.features import losses
from kdtf.distillation.features import mapping
from kdtf.distillation.features.feature import Feature
from kdtf.distillation.features.feature import Records

__all__ = [
    "AttentionMaps",
    "AttentionRelations",
    "HiddenStates",
    "PairwiseAngles",
    "PairwiseDistances",
]


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenStates(Feature):
    """Teaches what layers give: mean squared error of their outputs.

    Where widths differ, the student's outputs first go through a learned
    linear map without bias, which trains along and is no part of the student.
    Works for any layers whose outputs agree in all but the last axis.

    Args:
        layers: As for every feature. Defaults to "uniform".
        weight: As for every feature. Defaults to 1.0.

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: `weight` may be negative, or `layers` is nothing known.

    Example:
        >>> HiddenStates(layers={0: 1, 1: 3}, weight=0.5).layers
        ((0, 1), (1, 3))

    Reference:
        Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351
        (equation 8)
    """

    name: ClassVar[str] = "hidden_states"

    def widths(self, teacher: Records, student: Records) -> Any:
        """Returns the two widths where they differ."""
        t, s = (tuple(r["output"].output.shape) for r in (teacher, student))
        pairs = zip(t[1:-1], s[1:-1], strict=False)
        if len(t) != len(s) or any(a != b for a, b in pairs if a and b):
            raise ValueError(
                "Hidden states must agree in all but the last axis. Received: "
                f"the teacher's {t}, the student's {s}. Pair layers of one "
                "size in `layers`, or use `PairwiseDistances`."
            )
        return None if s[-1] == t[-1] else (s[-1], t[-1])

    def value(
        self, teacher: Records, student: Records, mask: Any, project: Any
    ) -> Any:
        """Returns the mean squared error over width and real positions."""
        hidden = student["output"].output
        if project is not None:
            hidden = project(hidden)
        return losses.hidden_mse(teacher["output"].output, hidden, mask)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMaps(Feature):
    """Teaches where each position looks: the attention over the others.

    Scores are made again from queries and keys, with the attention's own
    mask, rotary embedding and groups of heads; padded positions are left out.
    Where numbers of heads differ, the means over heads are compared.

    Args:
        layers: As for every feature. Defaults to "uniform".
        weight: As for every feature. Defaults to 1.0.
        loss: "mse" or "kl" of the probabilities, or "scores_mse" of what
            goes into the softmax, as TinyBERT does. Defaults to "mse".

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: A setting is nothing known, or `weight` may be negative.

    Example:
        >>> AttentionMaps(layers="last", loss="kl").weight
        1.0

    Reference:
        Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351
        (equation 7)
    """

    loss: str = "mse"
    name: ClassVar[str] = "attention_maps"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        checks.check_choice("loss", self.loss, ("mse", "kl", "scores_mse"))

    def taps(self, model: Any, path: str) -> dict[str, str]:
        """Returns the paths of the attention, its queries and its keys."""
        found = attention.find_attention(model, path)
        at = found["attention"]
        attention.check_plain(mapping.find_layer(model, at), at)
        return {role: found[role] for role in ("attention", "query", "key")}

    def value(
        self, teacher: Records, student: Records, mask: Any, project: Any
    ) -> Any:
        """Returns the distance of the two maps over pairs that count."""
        del project
        t, t_mask = attention.scores_and_mask(teacher, mask)
        s, s_mask = attention.scores_and_mask(student, mask)
        both = ops.logical_and(t_mask, s_mask)
        heads_differ = t.shape[1] != s.shape[1]
        if self.loss == "scores_mse":
            if heads_differ:
                t, s = (ops.mean(x, axis=1, keepdims=True) for x in (t, s))
            return losses.attention_mse(t, s, both)
        t = attention.log_probabilities(t, t_mask)
        s = attention.log_probabilities(s, s_mask)
        if heads_differ:
            t, s = attention.mean_over_heads(t), attention.mean_over_heads(s)
        if self.loss == "kl":
            return losses.attention_kl(t, s, both)
        return losses.attention_mse(ops.exp(t), ops.exp(s), both)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionRelations(Feature):
    """Teaches how positions relate by queries, by keys and by values.

    The sum of three divergences, one each of query-query, key-key and
    value-value relations. Needs no projection: widths and numbers of heads may
    differ. Queries and keys are taken before a rotary embedding, values of
    grouped heads once for each group, and relations reach over all real
    positions, in decoders as well.

    Args:
        layers: As for every feature. Defaults to "last"; the paper takes a
            layer in the upper middle of large teachers.
        weight: As for every feature. Defaults to 1.0.
        relation_heads: In how many parts the vectors are cut; divides both
            models' widths of queries, keys and values. More parts teach more
            detail. Defaults to 12.

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: A setting is nothing known, or out of range.

    Example:
        >>> AttentionRelations(relation_heads=48).layers
        'last'

    Reference:
        Wang et al. 2021 (MiniLMv2), https://arxiv.org/abs/2012.15828
        (section 3)
    """

    layers: Any = "last"
    relation_heads: int = 12
    name: ClassVar[str] = "attention_relations"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if self.relation_heads < 1:
            raise ValueError(
                "`relation_heads` must be at least 1. Received: "
                f"relation_heads={self.relation_heads}. 12 to 64 is usual."
            )

    def taps(self, model: Any, path: str) -> dict[str, str]:
        """Returns the paths of queries, keys and values."""
        found = attention.find_attention(model, path)
        return {role: found[role] for role in ("query", "key", "value")}

    def widths(self, teacher: Records, student: Records) -> Any:
        """Returns None, once it is sure that all can be cut."""
        widths = {
            math.prod(record.output.shape[2:])
            for records in (teacher, student)
            for record in records.values()
        }
        if any(width % self.relation_heads for width in widths):
            whole = min(widths)
            fit = [
                n
                for n in range(1, whole + 1)
                if not any(width % n for width in widths)
            ]
            raise ValueError(
                "`relation_heads` must divide the width of queries, keys and "
                "values, of both models. Received: relation_heads="
                f"{self.relation_heads}, widths {sorted(widths)}. These do: "
                f"{fit}."
            )
        return None

    def value(
        self, teacher: Records, student: Records, mask: Any, project: Any
    ) -> Any:
        """Returns the sum of the three divergences."""
        del project
        return sum(
            losses.relation_kl(
                teacher[role].output,
                student[role].output,
                mask,
                relation_heads=self.relation_heads,
            )
            for role in ("query", "key", "value")
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pairwise(Feature):
    """Compares how the samples of a batch lie to each other."""

    layers: Any = "last"

    def value(
        self, teacher: Records, student: Records, mask: Any, project: Any
    ) -> Any:
        """Returns each sample's part of the batch's loss."""
        del project
        return self._loss(
            losses.pool(teacher["output"].output, mask),
            losses.pool(student["output"].output, mask),
        )

    def _loss(self, teacher: Any, student: Any) -> Any:
        raise NotImplementedError


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseDistances(_Pairwise):
    """Teaches how far the samples of a batch are from each other.

    Works between any two layers: outputs are averaged over positions, and
    only distances are compared. Each sample's value is its mean over the
    others of the (local) batch: a sample weight counts a sample as the one
    distances begin at, and one of weight 0 is still there for the others.

    Args:
        layers: As for every feature. Defaults to "last".
        weight: As for every feature. Defaults to 1.0.

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: `weight` may be negative, or `layers` is nothing known.

    Example:
        >>> PairwiseDistances(layers={"pool": "global_pool"}).layers
        (('pool', 'global_pool'),)

    Reference:
        Park et al. 2019 (RKD), https://arxiv.org/abs/1904.05068 (section 3.2)
    """

    name: ClassVar[str] = "pairwise_distances"

    def _loss(self, teacher: Any, student: Any) -> Any:
        return losses.pairwise_distance(teacher, student)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseAngles(_Pairwise):
    """Teaches at which angles the samples of a batch see two others.

    As `PairwiseDistances`, with a batch of at least three. The paper gives
    it twice the weight of the distances.

    Args:
        layers: As for every feature. Defaults to "last".
        weight: As for every feature. Defaults to 1.0.

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: `weight` may be negative, or `layers` is nothing known.

    Example:
        >>> PairwiseAngles(layers={"pool": "pool"}, weight=2.0).weight
        2.0

    Reference:
        Park et al. 2019 (RKD), https://arxiv.org/abs/1904.05068 (section 3.2)
    """

    name: ClassVar[str] = "pairwise_angles"

    def _loss(self, teacher: Any, student: Any) -> Any:
        return losses.pairwise_angle(teacher, student)
