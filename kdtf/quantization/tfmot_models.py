"""Clusters the weights of `tf_keras` models, by tfmot's wrappers."""

from typing import Any

import numpy as np
import tf_keras

from kdtf.transforms import tfmot_models

__all__ = ["cluster"]


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
