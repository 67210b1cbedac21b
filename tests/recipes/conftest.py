"""What tests of recipes share."""

import keras
import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "day"]


@pytest.fixture(scope="module")
def word_task():
    """A tiny keras_nlp classifier of texts, with its preprocessor."""
    import keras_nlp

    keras.utils.set_random_seed(0)
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=1,
        num_heads=1,
        hidden_dim=32,
        intermediate_dim=32,
        max_sequence_length=6,
    )
    preprocessor = keras_nlp.models.BertTextClassifierPreprocessor(
        keras_nlp.models.BertTokenizer(WORDS), sequence_length=6
    )
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=preprocessor
    )
