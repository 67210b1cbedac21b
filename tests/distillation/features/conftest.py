"""Language models of a few hundred weights."""

import numpy as np
import pytest

VOCABULARY, TIME = 40, 6


def bert(num_layers=2, hidden_dim=8, num_heads=2, dropout=0.0):
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=8,
        dropout=dropout,
        max_sequence_length=TIME,
    )
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=3, dropout=dropout, preprocessor=None
    )


def gpt2(num_layers=2, hidden_dim=8, num_heads=2, dropout=0.0):
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=8,
        dropout=dropout,
        max_sequence_length=TIME,
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)


def llama(num_layers=2, hidden_dim=16, num_heads=4):
    import keras_nlp

    backbone = keras_nlp.models.LlamaBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=num_layers,
        num_query_heads=num_heads,
        num_key_value_heads=num_heads // 2,
        hidden_dim=hidden_dim,
        intermediate_dim=8,
    )
    return keras_nlp.models.LlamaCausalLM(backbone, preprocessor=None)


MAKERS = {"bert": bert, "gpt2": gpt2, "llama": llama}


@pytest.fixture
def makers():
    """Functions that make a tiny model, by family."""
    return MAKERS


@pytest.fixture
def tokens(rng):
    """Makes inputs for a family: three rows, the last two of each padded."""

    def make(family, rows=3, padded=2):
        mask = np.ones((rows, TIME), "int32")
        mask[:, TIME - padded :] = 0
        ids = rng.integers(1, VOCABULARY, (rows, TIME)).astype("int32")
        inputs = {"token_ids": ids, "padding_mask": mask}
        if family == "bert":
            inputs["segment_ids"] = np.zeros_like(ids)
        return inputs

    return make
