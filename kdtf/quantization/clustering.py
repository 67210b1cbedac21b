"""Weights that share a few values: smaller after compression."""

from typing import Any

from kdtf import flavours
from kdtf.quantization.schemes import Codebook
from kdtf.quantization.training import quantize_aware

__all__ = ["INITIALIZATIONS", "cluster"]

INITIALIZATIONS = ("linear", "random", "density", "kmeans++")


def cluster(
    model: Any,
    num_clusters: int = 16,
    *,
    initialization: str = "kmeans++",
    preserve_sparsity: bool = False,
    select: Any = None,
) -> Any:
    """Lets the kernels of a model hold a few distinct values only.

    Each kernel is written with its own `num_clusters` centroids, which `fit`
    goes on training; `kdtf.strip` bakes them in. The file keeps its size and
    becomes small when compressed (16 values are 4 bits each).

    Of Keras 3 this is `kdtf.quantize_aware(model, Codebook(...))`. For
    `tf_keras` tfmot does it: compile the returned model, and do not use
    `model` any more: they share their layers, whose kernels tfmot replaces.
    There embeddings, depthwise and frozen layers are left alone, as are
    layers that tfmot does not know.

    Args:
        model: A built model of Keras 3, changed in place, or a functional or
            Sequential one of `tf_keras`.
        num_clusters: Values per kernel, at least 2, and 3 where one of them
            is the preserved zero; up to 256 for Keras 3. Defaults to 16.
        initialization: Where the centroids start: "linear" or "random"
            between the extremes (random for `tf_keras` only), "density"
            (quantiles), or "kmeans++".
        preserve_sparsity: Whether zeros stay zeros, for a pruned model. Zero
            is then one of the values.
        select: Which kernels, as for `kdtf.quantize_aware`; of `tf_keras`
            which layers directly in `model`: a layer, a pattern of names
            (`"dense_*"`), a predicate of a layer, or a list of these.

    Returns:
        The model; of `tf_keras` one with tfmot's wrappers, not compiled.

    Raises:
        TypeError: `model` is no Keras model, or `num_clusters` no integer.
        ValueError: An argument is out of range, the model is clustered or
            quantized already, or of `tf_keras` a kernel has fewer non-zero
            weights than clusters.

    Example:
        >>> import numpy as np, tf_keras
        >>> from kdtf.transforms.tfmot_models import strip
        >>> dense = tf_keras.layers.Dense(8, input_shape=(8,))
        >>> clustered = cluster(tf_keras.Sequential([dense]), 4)
        >>> np.unique(strip(clustered).get_weights()[0]).size
        4

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (section 3)
    """
    _check_arguments(num_clusters, initialization, preserve_sparsity)
    if flavours.flavour_of(model) == "keras":
        return _with_codebooks(
            model, num_clusters, initialization, preserve_sparsity, select
        )
    from kdtf.quantization import tfmot_models

    return tfmot_models.cluster(
        model,
        num_clusters,
        initialization=initialization,
        preserve_sparsity=preserve_sparsity,
        select=select,
    )


def _with_codebooks(
    model: Any,
    num_clusters: int,
    initialization: str,
    preserve_sparsity: bool,
    select: Any,
) -> Any:
    if initialization == "random":
        raise ValueError(
            "`initialization` of a Keras 3 model must be 'linear', 'density' "
            "or 'kmeans++'. Received: initialization='random'. 'kmeans++' is "
            "random, too, and better."
        )
    codebook = Codebook(
        num_entries=num_clusters,
        keep_zero=preserve_sparsity,
        initialization=initialization,
    )
    return quantize_aware(model, codebook, select=select)


def _check_arguments(
    num_clusters: Any, initialization: Any, preserve_sparsity: bool
) -> None:
    if not isinstance(num_clusters, int) or isinstance(num_clusters, bool):
        raise TypeError(
            "`num_clusters` must be an integer. Received: "
            f"num_clusters={num_clusters!r} of type "
            f"{type(num_clusters).__name__}. Defaults to 16."
        )
    least = 3 if preserve_sparsity else 2
    if num_clusters < least:
        raise ValueError(
            "`num_clusters` must be at least 2, and at least 3 with "
            "`preserve_sparsity`, whose zero is one of them. Received: "
            f"num_clusters={num_clusters}. 16 is a good start."
        )
    if initialization not in INITIALIZATIONS:
        raise ValueError(
            f"`initialization` must be one of {list(INITIALIZATIONS)}. "
            f"Received: initialization={initialization!r}."
        )
