"""How good the predictions are: Keras metrics, and agreement with a peer."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.batches import Batch
from kdtf.batches import num_examples_of
from kdtf.evaluation.agreement import Decision
from kdtf.evaluation.agreement import count_agreeing
from kdtf.evaluation.agreement import decide
from kdtf.evaluation.agreement import decision_kind
from kdtf.evaluation.agreement import threshold_of
from kdtf.evaluation.metrics import check_metrics
from kdtf.evaluation.metrics import resolve_metric
from kdtf.evaluation.metrics import value_of

# Inputs in, outputs `(batch, ...)` and the mask Keras put on them (or None).
Predict = Callable[[Any], tuple[np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """What one model scored.

    Attributes:
        metrics: The value of each metric, by name.
        agreement: Share of decisions equal to the first model's, in [0, 1];
            None for regressors.
        num_examples: Examples it was measured on.
        note: Why the agreement is missing, or "".
    """

    metrics: dict[str, float]
    agreement: float | None
    num_examples: int = 0
    note: str = ""


def measure_quality(
    predicts: Mapping[str, Predict],
    batches: Iterable[Batch],
    *,
    metrics: Sequence[Any] = (),
) -> dict[str, Quality]:
    """Runs several models over the same data, once, batch by batch.

    All see one batch before any sees the next, so that data which is
    shuffled at every pass is the same for all; and only one model's
    predictions of one batch are held at a time.

    Padding counts nowhere: the mask that the first model puts on its outputs
    joins the sample weights, for every model's metrics (Keras does that for
    the model's own). The agreement also leaves out where an input called
    `padding_mask` is 0.

    Args:
        predicts: Functions from inputs to outputs, by name; the first is
            what the others are held against.
        batches: The data.
        metrics: Names and `keras.metrics.Metric` objects; each model gets
            copies.

    Raises:
        ValueError: Metrics without labels, two metrics of one name, or a
            model that cannot run on the data.
    """
    check_metrics(metrics)
    tallies = {name: _Tally(metrics) for name in predicts}
    for batch in batches:
        reference: _Tally | None = None
        for name, predict in predicts.items():
            outputs, mask = _predict(name, predict, batch)
            tally = tallies[name]
            if reference is None:
                reference = tally
                weights = combine_weights(batch.sample_weight, mask)
                tally.kind = tally.kind or decision_kind(outputs, batch.y)
            tally.update(outputs, batch, weights=weights, reference=reference)
    return {name: tally.result() for name, tally in tallies.items()}


def combine_weights(
    sample_weight: np.ndarray | None, mask: np.ndarray | None
) -> np.ndarray | None:
    """Gives the weights with the mask's padding at 0.

    Args:
        sample_weight: Shape `(batch,)` or `(batch, time)`, or None.
        mask: Booleans of shape `(batch, time)`, or None.

    Example:
        >>> import numpy as np
        >>> mask = np.array([[True, False], [True, True]])
        >>> combine_weights(np.array([2.0, 3.0]), mask).tolist()
        [[2.0, 0.0], [3.0, 3.0]]
    """
    if mask is None:
        return sample_weight
    weights = mask.astype("float32")
    if sample_weight is None:
        return weights
    missing = max(0, weights.ndim - sample_weight.ndim)
    shape = sample_weight.shape + (1,) * missing
    return sample_weight.reshape(shape) * weights


class _Tally:
    """One model's running metrics and agreement."""

    def __init__(self, identifiers: Sequence[Any]) -> None:
        self.kind: Decision | None = None
        self.decided: np.ndarray | None = None
        self._identifiers = identifiers
        self._metrics: list[Any] | None = None
        self._threshold: float | None = None
        self._agreeing = 0
        self._counted = 0
        self._num_examples = 0
        self._note = ""

    def update(
        self,
        outputs: np.ndarray,
        batch: Batch,
        *,
        weights: np.ndarray | None,
        reference: "_Tally",
    ) -> None:
        """Takes one batch of predictions in."""
        self._num_examples += len(outputs)
        self._update_metrics(outputs, batch.y, weights)
        if reference.kind is None:
            return
        if self._threshold is None:
            self._threshold = threshold_of(outputs)
        self.decided = decide(
            outputs, reference.kind, threshold=self._threshold
        )
        if reference.decided is None or (
            self.decided.shape != reference.decided.shape
        ):
            self._note = (
                f"no agreement: predictions of shape {outputs.shape} do not "
                "match the first row's"
            )
            return
        places = weights
        if places is None:
            places = _padding_mask(batch.x, self.decided.shape)
        agreeing, counted = count_agreeing(
            self.decided, reference.decided, places
        )
        self._agreeing += agreeing
        self._counted += counted

    def _update_metrics(
        self, outputs: np.ndarray, labels: Any, weights: Any
    ) -> None:
        if not self._identifiers:
            return
        if labels is None:
            raise ValueError(
                "`metrics` need labels. Received: data without y. Pass "
                "(x, y), or no metrics."
            )
        if self._metrics is None:
            self._metrics = [
                resolve_metric(identifier, labels, outputs)
                for identifier in self._identifiers
            ]
        for metric in self._metrics:
            metric.update_state(labels, outputs, sample_weight=weights)

    def result(self) -> Quality:
        """Gives the scores over all batches so far."""
        share = self._agreeing / self._counted if self._counted else None
        return Quality(
            metrics={m.name: value_of(m) for m in self._metrics or ()},
            agreement=None if self._note else share,
            num_examples=self._num_examples,
            note=self._note,
        )


def _predict(
    name: str, predict: Predict, batch: Batch
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        outputs, mask = predict(batch.x)
    except (ValueError, TypeError) as error:
        shapes = keras.tree.map_structure(np.shape, batch.x)
        raise ValueError(
            f"Every model must run on `data`. Received: model {name!r}, "
            f"inputs of shape {shapes}, which it refuses: {error}"
        ) from error
    return outputs[: num_examples_of(batch.x)], mask


def _padding_mask(x: Any, places: tuple[int, ...]) -> np.ndarray | None:
    """Gives the mask that keras-nlp's preprocessors put among the inputs.

    None if there is one decision for a whole text: there is no padding then.
    """
    mask = x.get("padding_mask") if isinstance(x, Mapping) else None
    if mask is None or np.shape(mask) != places[: np.ndim(mask)]:
        return None
    return np.asarray(mask)
