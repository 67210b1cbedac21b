"""Fewer bits for `tf_keras` models, by tfmot's wrappers."""

from typing import Any

import numpy as np
import tf_keras

from kdtf.quantization import tfmot_int8
from kdtf.quantization.tfmot_int8 import PRESERVE
from kdtf.transforms import tfmot_models
from kdtf.transforms.tf_keras_layers import check_can_be_cloned

__all__ = ["cluster", "quantize_aware"]


def cluster(
    model: Any,
    num_clusters: int,
    *,
    initialization: str,
    preserve_sparsity: bool,
    select: Any,
) -> Any:
    """Returns a clone of a `tf_keras` model with clustered kernels.

    Args:
        model: As in `kdtf.cluster`, which has checked the other arguments.
        num_clusters: As in `kdtf.cluster`.
        initialization: As in `kdtf.cluster`.
        preserve_sparsity: As in `kdtf.cluster`.
        select: As in `kdtf.cluster`.

    Raises:
        ValueError: A kernel has fewer non-zero weights than clusters, the
            model is wrapped already, or nothing in it can be clustered.
    """
    tfmot = tfmot_models.load_tfmot()
    names = tfmot.clustering.keras.CentroidInitialization
    starts = {
        "linear": names.LINEAR,
        "random": names.RANDOM,
        "density": names.DENSITY_BASED,
        "kmeans++": names.KMEANS_PLUS_PLUS,
    }

    def wrap(layer: Any) -> Any:
        if isinstance(layer, tf_keras.layers.Conv2D):
            # Of these tfmot only warns, and leaves them as they are.
            _check_count(layer.name, layer.kernel, num_clusters)
        try:
            wrapper = tfmot.clustering.keras.cluster_weights(
                layer,
                num_clusters,
                starts[initialization],
                preserve_sparsity=preserve_sparsity,
                # Else the global policy's, which the layer may differ from.
                dtype=layer.dtype_policy,
            )
        except ValueError:
            # Its registry has no such layer; `wrap_layers` speaks of it.
            return None
        kernels = wrapper.layer.get_clusterable_weights()
        for _, kernel in kernels:
            _check_dtype(layer)
            _check_count(layer.name, kernel, num_clusters)
        return wrapper if kernels else None

    return tfmot_models.wrap_layers(model, wrap, select=select)


def quantize_aware(
    model: Any, scheme: str, *, select: Any = None, preserve: str = "auto"
) -> Any:
    """Returns a copy of a `tf_keras` model whose `fit` simulates int8.

    Args:
        model: A built functional or Sequential `tf_keras` model.
        scheme: "int8" only: 8-bit weights and activations.
        select: Which layers with kernels, as in `kdtf.cluster`; the others
            stay in float. Defaults to all.
        preserve: What stays in the kernels: "zeros", "clusters" (equal
            weights stay equal), "zeros_and_clusters", "nothing", or "auto":
            zeros where they are a quarter of a kernel, clusters where it has
            at most 256 values, of four weights each or more.

    Returns:
        A flat `tf_keras` model with tfmot's wrappers, not compiled. It must
        be trained: its ranges are those of the batches it sees.
        `left_in_float` tells what stayed in float.

    Raises:
        ValueError: The scheme is another one, tfmot cannot do it, the model
            is quantized already, or there is nothing to quantize or preserve.
    """
    if scheme != "int8":
        raise ValueError(
            "tf_keras models are trained for 'int8' only, by tfmot. Received: "
            f"scheme={scheme!r}. Use 'int8', `kdtf.cluster` for codebooks, or "
            "a Keras 3 model for the others."
        )
    if preserve not in PRESERVE:
        raise ValueError(
            f"`preserve` must be one of {list(PRESERVE)}. Received: "
            f"preserve={preserve!r}."
        )
    check_can_be_cloned(model)
    tfmot_models.check_plain(model)
    return tfmot_int8.wrapped(
        tfmot_models.load_tfmot(), model, select=select, preserve=preserve
    )


def _check_dtype(layer: Any) -> None:
    if layer.compute_dtype != "float32":
        raise ValueError(
            "tfmot clusters layers that compute in float32 only. Received: "
            f"layer {layer.name!r} with the policy {layer.dtype_policy.name!r}"
            ". Make the model anew under "
            "`tf_keras.mixed_precision.set_global_policy('float32')` and give "
            "it the weights."
        )


def _check_count(name: str, kernel: Any, num_clusters: int) -> None:
    count = int(np.count_nonzero(kernel.numpy()))
    if count <= num_clusters:
        raise ValueError(
            "A kernel must have more non-zero weights than it gets clusters. "
            f"Received: num_clusters={num_clusters} for layer {name!r} with "
            f"{count} non-zero weights in a kernel of shape "
            f"{tuple(kernel.shape)}. Use fewer clusters, or choose other "
            "layers with `select`."
        )
