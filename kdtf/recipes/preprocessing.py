"""Texts and token ids for keras-nlp tasks, whose `fit` takes texts alone."""

from typing import Any

import keras
import numpy as np

from kdtf.batches import is_dataset

__all__ = ["fit_arrays", "tokenized"]


def tokenized(model: Any, data: Any, argument: str) -> Any:
    """Returns data as arrays of numbers, whether it is or holds texts.

    `fit` of a keras-nlp task takes texts, since its preprocessor makes token
    ids of them; files, graphs and teachers take the ids alone.

    Args:
        model: A Keras model; one with a `preprocessor` for texts.
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, or a
            `tf.data.Dataset` of batches. What holds numbers stays as it is.
        argument: The caller's name for it.

    Raises:
        ValueError: It holds texts, and the model takes none.

    Example:
        >>> tokenized(keras.Sequential(), (np.ones(2), np.ones(2)), "train")
        (array([1., 1.]), array([1., 1.]))
    """
    if not _holds_texts(data):
        return data
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is None:
        raise ValueError(
            f"`{argument}` must hold arrays of numbers, as the model is called "
            f"with. Received: {argument} with texts, and a model without a "
            "preprocessor. Give token ids, or a keras-nlp task with its "
            "`preprocessor`."
        )
    if is_dataset(data):
        return data.map(preprocessor)
    x, *others = data if isinstance(data, tuple | list) else (data,)
    # A tuple is a row's segments; a list is rows.
    x = np.asarray(x) if isinstance(x, list) else x
    parts = keras.utils.unpack_x_y_sample_weight(preprocessor(x, *others))
    given = [part for part in parts if part is not None]
    return tuple(keras.tree.map_structure(np.asarray, part) for part in given)


def fit_arrays(model: Any, **options: Any) -> Any:
    """Fits a model to arrays as they are, shuffled as Keras does.

    `fit` of a keras-nlp task makes token ids of texts, and neither takes
    those ids where a preprocessor is set nor shuffles arrays.

    Args:
        model: What is compiled.
        **options: Of Keras's `fit`.

    Returns:
        Keras's history.
    """
    if hasattr(model, "preprocess_samples"):
        return keras.Model.fit(model, **options)
    return model.fit(**options)


def _holds_texts(data: Any) -> bool:
    if is_dataset(data):
        spec = data.element_spec
        x = spec[0] if isinstance(spec, tuple) else spec
        return any(leaf.dtype == "string" for leaf in keras.tree.flatten(x))
    x = data[0] if isinstance(data, tuple | list) and data else data
    leaves = keras.tree.flatten(x)
    return any(np.asarray(leaf).dtype.kind in "OSU" for leaf in leaves)
