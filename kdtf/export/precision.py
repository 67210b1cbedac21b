"""Makes a model compute in float32 while it is traced, and restores it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.flavours import flavour_of


@contextlib.contextmanager
def computing_in_float32(model: Any) -> Iterator[set[str]]:
    """Sets every layer's dtype policy to float32 during the block.

    LiteRT has no float16 kernels for convolutions and dense layers, so the
    half-precision graph of a `mixed_float16` model does not convert.

    Args:
        model: A model of either Keras.

    Yields:
        The names of the policies that were replaced; empty for a float32
        model.

    Raises:
        ExportError: A layer was quantized by Keras's own `quantize()`.
    """
    changed: list[tuple[Any, Any]] = []
    try:
        # Private in both Kerases, but `layers` lists no sub-layers.
        for layer in model._flatten_layers():
            policy = layer.dtype_policy
            _refuse_quantized(layer, policy)
            if policy.compute_dtype in ("float16", "bfloat16"):
                changed.append((layer, policy))
                _set_policy(model, layer, _float32_policy(model, policy))
        yield {policy.name for _, policy in changed}
    finally:
        for layer, policy in changed:
            _set_policy(model, layer, policy)


def _float32_policy(model: Any, policy: Any) -> Any:
    if flavour_of(model) == "tf_keras":
        return "float32"
    import keras

    replacement = keras.DTypePolicy("float32")
    # No name stands for "float32 over bfloat16 variables", but with these
    # two types differing Keras casts the variables as in mixed precision.
    replacement._variable_dtype = policy.variable_dtype
    return replacement


def _set_policy(model: Any, layer: Any, policy: Any) -> None:
    if flavour_of(model) == "tf_keras":
        layer._set_dtype_policy(policy)
    else:
        layer.dtype_policy = policy


def _refuse_quantized(layer: Any, policy: Any) -> None:
    mode = getattr(policy, "quantization_mode", None)
    if mode is not None:
        raise ExportError(
            "Layers quantized by Keras's `model.quantize()` do not convert, "
            "or come out in float size. Received: layer "
            f"{getattr(layer, 'path', layer.name)!r} with "
            f"quantization_mode={mode!r}. Export the float model with "
            "`quantize='dynamic_int8'` instead."
        )
