"""Models of `keras_nlp` in other sizes, by their configurations."""

from typing import Any

import keras
import numpy as np

__all__ = ["backbone_of", "resized", "spaced"]


def backbone_of(model: Any) -> Any:
    """Returns the backbone of transformer blocks in a `keras_nlp` model.

    Args:
        model: Anything.

    Returns:
        The model itself if it is one, a task's backbone, or None.

    Example:
        >>> backbone_of(keras.Sequential()) is None
        True
    """
    backbone = getattr(model, "backbone", None) or model
    blocks = getattr(backbone, "transformer_layers", None)
    return backbone if isinstance(model, keras.Model) and blocks else None


def resized(
    model: Any,
    changes: dict[str, Any],
    *,
    suffix: str = "",
    task: dict[str, Any] | None = None,
) -> Any:
    """Returns a new model of the same class, in another size.

    Its weights are new. A task keeps its head's kind and its preprocessor;
    both it and its backbone are as they are when they are new.

    Args:
        model: A `keras_nlp` backbone, or a task with one in it.
        changes: Entries of the backbone's configuration.
        suffix: What is added to the names.
        task: Other entries of the task's configuration.

    Example:
        >>> import keras_nlp
        >>> model = keras_nlp.models.BertBackbone(
        ...     vocabulary_size=9, num_layers=2, num_heads=1, hidden_dim=4,
        ...     intermediate_dim=8, max_sequence_length=6,
        ... )
        >>> resized(model, {"num_layers": 1}).num_layers
        1
    """
    source = backbone_of(model)
    config = source.get_config()
    # Llama's configuration forgets it: it would get a head apart.
    if hasattr(source, "tie_word_embeddings"):
        config["tie_word_embeddings"] = source.tie_word_embeddings
    config.update(changes, name=f"{source.name}{suffix}")
    backbone = type(source).from_config(config)
    if model is source:
        return backbone
    config = model.get_config()
    config.update(
        backbone=backbone,
        # The very object: a tokenizer holds its whole vocabulary.
        preprocessor=model.preprocessor,
        name=f"{model.name}{suffix}",
    )
    return type(model).from_config(config | (task or {}))


def spaced(num_blocks: int, number: int) -> list[int]:
    """Returns evenly spaced blocks, the first and the last among them.

    Example:
        >>> spaced(12, 6)
        [0, 2, 4, 7, 9, 11]
    """
    return [int(round(i)) for i in np.linspace(0, num_blocks - 1, number)]
