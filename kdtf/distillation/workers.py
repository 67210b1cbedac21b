"""Training on several replicas, in this process and in others.

Keras 3.15 does not `fit` across processes, for two reasons that a model can
mend for itself: it averages the inputs of all workers only to learn their
shape, and the logs of a step over the first axis of what are scalars. And on
any replicas it divides each one's loss by that one's own number of tokens, so
that padding makes the mean another than one process would take.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

__all__ = [
    "Replicated",
    "check_scope",
    "part_of_loss",
    "spans_processes",
]


def spans_processes(strategy: Any) -> bool:
    """Returns whether some replicas of a strategy live in other processes.

    Example:
        >>> spans_processes(tf.distribute.get_strategy())
        False
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    here = len(strategy.extended.worker_devices)
    return here < strategy.num_replicas_in_sync


def check_scope(student: Any) -> None:
    """Raises unless the strategy in whose scope we are made the student.

    Replicas would each train weights of their own, or none. The teacher may
    come from anywhere: a variable that is only read needs no strategy.

    Args:
        student: A built model.

    Raises:
        ValueError: It was built outside of the scope, or the other way round.
    """
    strategy = tf.distribute.get_strategy()
    created = strategy.extended.variable_created_in_scope
    outside = [v.path for v in student.variables if not created(v.value)]
    if outside:
        raise ValueError(
            "`student` must be built in the scope of the strategy that trains "
            "it, and the Distiller in the same one. Received: "
            f"student={student.name!r}, whose {outside[0]!r} was made outside "
            f"of {type(strategy).__name__}. Build or load the student, make "
            "the Distiller and compile it under `with strategy.scope():`; the "
            "teacher may be built before."
        )


class _Count(keras.losses.Loss):
    """What Keras divides by: its own rules for masks, weights and shapes."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns a one for each value."""
        del y_pred
        return ops.ones_like(y_true)


def part_of_loss(
    loss: Any,
    values: Any,
    y_pred: Any,
    *,
    sample_weight: Any = None,
    reduction: str = "sum_over_batch_size",
) -> Any:
    """Makes a replica's loss its part of the loss of the whole batch.

    Keras divides a replica's sum of losses by that replica's own count and by
    the number of replicas, and sums the gradients. That is the mean over the
    batch only while the counts are equal; padding makes them differ, and so
    does a batch that cannot be dealt out evenly.

    Args:
        loss: A reduced loss, as a `keras.losses.Loss` returns it. A scalar.
        values: What was reduced, `(batch, ...)`, or anything of that shape.
        y_pred: This replica's outputs, with their Keras mask if there is one.
        sample_weight: Weights that the loss took.
        reduction: How the loss was reduced.

    Returns:
        A scalar. Its gradients, summed over replicas, are those of the whole
        batch's mean, or sum; its values, weighted by the replicas' samples as
        Keras does for its logs, give that divided by the number of replicas.
        On one replica `loss` itself.

    Example:
        >>> part_of_loss(2.0, [1.0, 3.0], [[0.5], [0.7]])
        2.0
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return loss
    replicas = context.num_replicas_in_sync
    size = ops.cast(ops.shape(values)[0], "float32")
    weight = sample_weight if reduction == "mean_with_sample_weight" else None
    count = _Count(name="count", reduction="sum", dtype="float32")(
        values, y_pred, sample_weight=weight
    )
    counts, sizes = context.all_reduce(
        tf.distribute.ReduceOp.SUM, [count, size]
    )
    # Sums are not divided by anything, and add up.
    is_sum = reduction == "sum"
    share = 1 / replicas if is_sum else tf.math.divide_no_nan(count, counts)
    for_gradient = loss * share * replicas
    for_logs = loss * share * tf.math.divide_no_nan(sizes, size)
    return for_gradient + ops.stop_gradient(for_logs - for_gradient)


# It stands before `keras.Model` among a class's bases and is none itself: a
# subclass of `keras.Model` would be one that users can build.
_Base: Any = object


class Replicated(_Base):
    """What a `keras.Model` needs to train on replicas; a base that goes first.

    Every worker runs the same script, with its own `TF_CONFIG`: makes a
    `tf.distribute.MultiWorkerMirroredStrategy` before anything else, then
    student, Distiller and `compile` in its scope, then calls `fit` with the
    same arguments as all others. Batch sizes are those of all workers
    together. Arrays are dealt out by Keras. Of a `tf.data.Dataset` that is the
    same on all workers, batched and shuffled with a seed, each takes its part
    if the dataset's option `experimental_distribute.auto_shard_policy` is
    `AutoShardPolicy.DATA`. With OFF all would train on the same samples: it is
    for datasets that differ by worker. With AUTO those read from files are
    dealt out by whole files, so batches are mixed otherwise.

    All workers call `evaluate` and `predict`, and one of them saves.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles as Keras does.

        Raises:
            ValueError: `steps_per_execution` is above 1 on several replicas.
        """
        steps = kwargs.get("steps_per_execution", 1)
        replicas = self.distribute_strategy.num_replicas_in_sync
        if steps != 1 and replicas > 1:
            raise ValueError(
                "`steps_per_execution` must be 1 on several replicas. "
                f"Received: steps_per_execution={steps}, with {replicas} "
                "replicas. Keras 3.15 cannot build its loop over steps there."
            )
        super().compile(*args, **kwargs)

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        strategy = self.distribute_strategy
        if iterator is not None and spans_processes(strategy):
            # Only shape and dtype are asked for, so one's own will do.
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def train_step(self, data: Any) -> Any:
        """Returns the logs of a step on this replica's part of a batch."""
        return self._for_reduction(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        """Returns the logs of a step on this replica's part of a batch."""
        return self._for_reduction(super().test_step(data))

    def _for_reduction(self, logs: Any) -> Any:
        if not spans_processes(self.distribute_strategy):
            return logs
        # Keras takes the mean over axis 0, on all workers.
        return keras.tree.map_structure(lambda v: ops.expand_dims(v, 0), logs)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        # Keras gives the last step's logs if `test_step` left a metric out;
        # they are a mean of the replicas' means.
        results = self.get_metrics_result()
        if set(logs) <= set(results):
            return {name: results[name] for name in logs}
        return logs
