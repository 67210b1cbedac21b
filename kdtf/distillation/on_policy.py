"""On-policy distillation: the student's own words, judged by the teacher.

A `keras.utils.PyDataset` or a generator given to `fit` would be the shorter
way, but Keras reads ahead of both: the words would be a few steps old.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdtf.distillation.distiller import Distiller
from kdtf.distillation.targets import is_joined
from kdtf.distillation.writing import SamplerSettings
from kdtf.distillation.writing import Writer

__all__ = ["on_policy_dataset"]


def on_policy_dataset(
    distiller: Any,
    dataset: Any,
    prompts: Sequence[Any],
    *,
    fraction: float = 0.5,
    temperature: float = 1.0,
    end_id: Any = "auto",
    seed: int = 0,
) -> Any:
    """Puts a student's own answers in the place of some batches.

    A student that only ever reads good text is not taught what to do after
    its own mistakes. Here it writes, with the weights it has at that step,
    and the teacher says at each word what it would have said: the
    generalised knowledge distillation of Agarwal et al., best with
    `soft_loss="reverse_kl"` or `"jensen_shannon"`.

    With the probability `fraction` a batch of `dataset` is left out for as
    many of the student's answers; an epoch stays as long as it was. Which
    batches, which prompts and which words depends on `seed` and on the
    optimizer's step, so that a resumed training goes on as one that was
    never interrupted.

    Only answers are learned, their end included. Their labels are the
    student's own words, which nobody said were right: `alpha` must be 0, and
    the metrics of training are no measure on such batches.

    What is fitted must take one step at a time: with `steps_per_execution`
    or several replicas TensorFlow reads ahead, and the words are as many
    steps old.

    Args:
        distiller: A `Distiller` with `alpha=0`, whose student is a `keras_nlp`
            causal language model and whose teacher is a model: a cache knows
            nothing of new words. With `distiller.student.jit_compile = True`
            it writes about twice as fast, after a longer start.
        dataset: A `tf.data.Dataset` of batches `(x, y)` or
            `(x, y, sample_weight)`, where `x` is a dict of "token_ids" and
            "padding_mask": windows of the length answers shall have too.
        prompts: A list of token ids each, or texts, which the student's
            preprocessor makes token ids of.
        fraction: In [0, 1]: 0 is `dataset` itself, 1 the student's answers
            alone. Defaults to 0.5.
        temperature: Of the sampling. Defaults to 1.0: the student's own
            distribution.
        end_id: The token, or tokens, that end an answer; "auto", the default,
            and None as in `generate_dataset`.
        seed: Of the sampling. Defaults to 0.

    Returns:
        A `tf.data.Dataset` of `(x, y, sample_weight)`, for `distiller.fit`.
        Transform `dataset` before, not this: a `prefetch` would read ahead.

    Raises:
        TypeError: `distiller` is no `Distiller`, its student no causal
            language model, or `dataset` no `tf.data.Dataset`.
        ValueError: `alpha` is not 0, a setting is out of range, the batches
            are not windows of tokens, or a prompt leaves no room.

    Example:
        >>> import keras_nlp
        >>> def gpt2(width):
        ...     backbone = keras_nlp.models.GPT2Backbone(
        ...         vocabulary_size=10, num_layers=1, num_heads=1,
        ...         hidden_dim=width, intermediate_dim=4, max_sequence_length=6,
        ...     )
        ...     return keras_nlp.models.GPT2CausalLM(backbone)
        >>> distiller = Distiller(gpt2(8), gpt2(4), alpha=0.0, temperature=1.0)
        >>> x = np.ones((4, 6), "int32")
        >>> windows = ({"token_ids": x, "padding_mask": x}, x)
        >>> dataset = tf.data.Dataset.from_tensor_slices(windows).batch(2)
        >>> mixed = on_policy_dataset(
        ...     distiller, dataset, [[3, 4]], fraction=1.0, end_id=None
        ... )
        >>> [weight[0].numpy().tolist() for _, _, weight in mixed.take(1)]
        [[0.0, 1.0, 1.0, 1.0, 1.0, 0.0]]

    Reference:
        Agarwal et al. 2023, https://arxiv.org/abs/2306.13649 (algorithm 1)
    """
    _check(distiller, dataset, fraction)
    signature = _signature(dataset)
    writer = Writer(
        distiller.student,
        max_length=signature[1].shape[1],
        end_id=end_id,
        settings=SamplerSettings(temperature=temperature),
        argument="distiller.student",
    )
    ids = writer.prompt_ids(prompts)
    if fraction == 0.0:
        return dataset

    def batches() -> Iterator[Any]:
        for index, batch in enumerate(dataset.as_numpy_iterator()):
            rng, state = _random(seed, distiller, index)
            if rng.random() >= fraction:
                yield _weighted(batch)
                continue
            num_rows = len(batch[1])
            chosen = rng.choice(len(ids), num_rows, replace=num_rows > len(ids))
            answers = writer.write([ids[i] for i in chosen], seed=state)
            yield writer.to_windows(answers)

    mixed = tf.data.Dataset.from_generator(batches, output_signature=signature)
    mixed = mixed.apply(
        tf.data.experimental.assert_cardinality(dataset.cardinality())
    )
    # Else TensorFlow adds a `prefetch` at the end by itself.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return mixed.with_options(options)


def _check(distiller: Any, dataset: Any, fraction: float) -> None:
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`distiller` must be the `Distiller` that will be fitted, of Keras "
            f"3. Received: type={type(distiller).__name__}. Its student "
            "writes."
        )
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "`dataset` must be a `tf.data.Dataset` of batches. Received: "
            f"type={type(dataset).__name__}. Use `tf.data.Dataset."
            "from_tensor_slices((x, y, sample_weight)).batch(8)`."
        )
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(
            f"`fraction` must be in [0, 1]. Received: fraction={fraction}."
        )
    alpha = distiller._objective.alpha
    if fraction > 0.0 and alpha.bounds()[1] > 0.0:
        raise ValueError(
            "`alpha` must be 0: with it the student's own words would be "
            f"taught as the right ones. Received: alpha={alpha}. Build the "
            "`Distiller` with `alpha=0.0`, and keep the labels out."
        )


def _signature(dataset: Any) -> tuple[Any, Any, Any]:
    """Gives the shapes of batches of windows, with weights."""
    spec = dataset.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    if is_joined(parts[0]):
        raise ValueError(
            "A cached teacher cannot judge new words. Received: a dataset "
            "that a cache was attached to. Distil from the teacher itself."
        )
    keys = set(parts[0]) if isinstance(parts[0], dict) else None
    if len(parts) < 2 or keys != {"token_ids", "padding_mask"}:
        raise ValueError(
            "`dataset` must hold (x, y) or (x, y, sample_weight), with `x` a "
            f"dict of 'token_ids' and 'padding_mask'. Received: {spec}."
        )
    length = parts[0]["token_ids"].shape[-1]
    if length is None or parts[1].shape.rank != 2:
        raise ValueError(
            "`dataset` must hold batches of windows of one length. Received: "
            f"{spec}. Batch it, and give it windows as `kdtf.data` makes them."
        )
    rows = tf.TensorSpec((None, length), tf.int32)
    inputs = {"token_ids": rows, "padding_mask": rows}
    return inputs, rows, tf.TensorSpec((None, length), tf.float32)


def _random(
    seed: int, distiller: Any, index: int
) -> tuple[np.random.Generator, tuple[int, ...]]:
    """Gives the random numbers of a step, and the seed of its words."""
    # Keras has no such attribute before `compile`.
    optimizer = getattr(distiller, "optimizer", None)
    step = 0 if optimizer is None else int(optimizer.iterations)
    state = (seed, step, index)
    return np.random.default_rng(state), state


def _weighted(batch: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    x, y, *weight = batch
    x = {key: value.astype(np.int32) for key, value in x.items()}
    weights = np.ones(y.shape) if not weight else weight[0]
    weights = np.broadcast_to(_as_column(weights), y.shape)
    return x, y.astype(np.int32), weights.astype(np.float32)


def _as_column(weights: Any) -> Any:
    # One weight for each sequence is one for all of its tokens.
    return weights[:, None] if weights.ndim == 1 else weights
