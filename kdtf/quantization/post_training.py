"""`quantize`: after training, from a few examples without labels."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.batches import iterate_batches
from kdtf.flavours import flavour_of
from kdtf.quantization import compensation
from kdtf.quantization import schemes
from kdtf.quantization.activations import calibrating
from kdtf.quantization.state import QuantizationState
from kdtf.quantization.training import prepare
from kdtf.transforms.selection import Candidate

__all__ = ["METHODS", "calibrate", "quantize"]

METHODS = ("nearest", *compensation.METHODS)


def quantize(
    model: Any,
    scheme: Any = "int8",
    data: Any = None,
    *,
    method: str = "nearest",
    select: Any = None,
) -> Any:
    """Lets a trained model compute with quantized values, without training.

    What `kdtf.quantize_aware` does, but for the training: ranges come from
    `data`, and weights may be rounded so that their errors cancel out. The
    model then computes what the device will, `kdtf.export_tflite` writes it,
    and `fit` goes on from there, quantization-aware.

    int8 rarely costs anything. At 4 bits "gptq" helps most where inputs are
    correlated, as in transformers; training helps more.

    Args:
        model: A built model of Keras 3, changed in place. (For `tf_keras`
            see `kdtf.quantize_aware`, or `quantize=` of `export_tflite`.)
        scheme: As for `kdtf.quantize_aware`.
        data: Typical examples, as for `fit`, labels unused: some hundred for
            "int8" ranges, some thousand positions for the methods that
            measure. Not needed for weights rounded to the nearest.
        method: "nearest"; "gptq" (rounds one input's weights after the
            other, and the rest make up for it); "awq" (scales inputs with
            large activations up, for finer steps there); "awq+gptq". All but
            the first are for linear weights per channel or per group.
        select: As for `kdtf.quantize_aware`.

    Returns:
        The model.

    Raises:
        TypeError: `model` is no Keras model, or an argument of another kind.
        ValueError: As for `kdtf.quantize_aware`; or `data` is missing, empty
            or holds nan, or `method` does not go with the scheme.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> before = model.predict(x, verbose=0)
        >>> after = quantize(model, "int8", x).predict(x, verbose=0)
        >>> bool(np.abs(before - after).max() < 0.05)
        True

    Reference:
        Frantar et al. 2022, https://arxiv.org/abs/2210.17323 (GPTQ); Lin et
        al. 2023, https://arxiv.org/abs/2306.00978 (AWQ)
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {list(METHODS)}. Received: "
            f"method={method!r}."
        )
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "`quantize` is for models of Keras 3. Received: "
            f"model={model.name!r} of tf_keras. Use `kdtf.export_tflite("
            "model, path, quantize='int8', representative_data=...)`, or "
            "train with `kdtf.quantize_aware`."
        )
    if data is None and method != "nearest":
        raise ValueError(
            f"method={method!r} measures the model on `data`. Received: "
            "data=None. Pass a few typical batches, or use method='nearest'."
        )

    def rounded(
        kernels: Sequence[tuple[Candidate, schemes.Weights]],
    ) -> list[np.ndarray]:
        return _rounded(model, kernels, data, method)

    state = prepare(
        model,
        scheme,
        select=select,
        data=data,
        round_kernels=None if method == "nearest" else rounded,
    )
    if state.activations is not None:
        calibrate(model, state, data)
    return model


def calibrate(model: Any, state: QuantizationState, data: Any) -> None:
    """Sets the ranges of a model's activations to what they are on data.

    Args:
        model: The model.
        state: What is quantized of it, activations too.
        data: Batches as `fit` takes them.

    Raises:
        ValueError: There is no data, or something on the way is not finite;
            the model is not quantized then.
    """
    try:
        _calibrate(model, state, data)
    except Exception:
        state.take_off(model)
        raise


def _calibrate(model: Any, state: QuantizationState, data: Any) -> None:
    activations = state.activations
    if data is None or activations is None:
        raise ValueError(
            "Ranges of activations are measured on `data`. Received: "
            'data=None. Pass some hundred typical examples, or for "int8" '
            "without data train with `kdtf.quantize_aware`."
        )
    with calibrating(state.ranges(), activations.range):
        for batch in iterate_batches(data):
            inputs = keras.tree.map_structure(
                keras.ops.convert_to_tensor, batch.x
            )
            model(inputs, training=False)


def _rounded(
    model: Any,
    kernels: Sequence[tuple[Candidate, schemes.Weights]],
    data: Any,
    method: str,
) -> list[np.ndarray]:
    """Sets the kernels to compensated values and returns the steps."""
    done = compensation.error_compensated(
        model,
        [kernel for kernel, _ in kernels],
        data,
        grids=[_grid(kernel, weights, method) for kernel, weights in kernels],
        method=method,
    )
    for (kernel, _), rounded in zip(kernels, done, strict=True):
        kernel.variable.assign(rounded.values)
    return [rounded.steps for rounded in done]


def _grid(
    kernel: Candidate, weights: schemes.Weights, method: str
) -> schemes.Linear:
    if (
        not isinstance(weights, schemes.Linear)
        or weights.granularity == "per_tensor"
    ):
        raise ValueError(
            f"method={method!r} is for linear weights per channel or per "
            f"group. Received: {weights} for {kernel.path!r}. Use "
            "method='nearest'."
        )
    return weights
