"""Tiny `keras_nlp` models of every family, and zeros where a plan cuts."""

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.pruning.shrinking.blocks import outside_of

SIZES = {
    "vocabulary_size": 50,
    "num_layers": 3,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}
HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "Bert": {"num_heads": 2, "max_sequence_length": 6},
    "Roberta": {"num_heads": 2, "max_sequence_length": 6},
    "DistilBert": {"num_heads": 2, "max_sequence_length": 6},
    "GPT2": {"num_heads": 2, "max_sequence_length": 6},
    "Llama": HEADS,
    "Llama3": HEADS,
    "Qwen": HEADS,
    "Qwen3": {**HEADS, "head_dim": 4},
    "Gemma": {**HEADS, "head_dim": 4},
}
QUICK = ("Bert", "GPT2", "Gemma")


def backbone(family, **sizes):
    import keras_nlp

    keras.utils.set_random_seed(0)
    make = getattr(keras_nlp.models, f"{family}Backbone")
    return make(**SIZES | FAMILIES[family] | sizes)


def inputs_of(model, rows=2):
    rng = np.random.default_rng(0)
    filled = {"segment_ids": np.zeros, "padding_mask": np.ones}
    x = {
        key: filled[key]((rows, 6), "int32")
        for key in model.input
        if key in filled
    }
    return x | {"token_ids": rng.integers(0, 50, (rows, 6)).astype("int32")}


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x))]


def zero_what_goes(plan):
    """Sets what a plan removes to 0, in the model itself."""
    for index in plan.removal.blocks:
        block = backbone_of(plan.model).transformer_layers[index]
        for sized, number in plan.removal.sized:
            gone = np.isin(np.arange(sized.parts), sized.order[index][number:])
            _zero(block.weights, sized.block, gone)
    for sized, number in plan.removal.sized:
        gone = np.isin(np.arange(sized.parts), sized.order[0][number:])
        _zero(outside_of(plan.model), sized.outside, gone)


def _zero(weights, followers, gone):
    for position, axes in followers.items():
        value = weights[position].numpy()
        for axis in axes:
            mask = np.repeat(gone, value.shape[axis] // len(gone))
            value[(slice(None),) * axis + (mask,)] = 0.0
        weights[position].assign(value)
