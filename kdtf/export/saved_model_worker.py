"""Runs a SavedModel as a server does: TensorFlow alone, a fresh process."""

import os
import sys
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.export.worker import ask
from kdtf.export.worker import read
from kdtf.export.worker import write
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec

__all__ = ["run_saved_model"]

SIGNATURE = "serving_default"


def run_saved_model(
    directory: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    *,
    batch_sizes: tuple[int, ...],
) -> tuple[Signature, dict[int, dict[str, np.ndarray]]]:
    """Returns the signature, and what it gives in batches of each size.

    Keras cannot be imported in that process, so what needs it fails.

    Args:
        directory: The SavedModel.
        arrays: Inputs by name, each of shape `(samples, ...)`.
        batch_sizes: How many samples each call gets.

    Returns:
        Outputs by batch size and name, each of shape `(samples, ...)`.

    Raises:
        ExportError: TensorFlow refuses it, or the process ended badly.
    """
    found, facts = ask(
        __name__,
        arrays,
        runtime="TensorFlow",
        way_out="A batch size or a length may be fixed inside the model.",
        model=os.fspath(directory),
        batch_sizes=batch_sizes,
    )
    ends = [
        tuple(
            TensorSpec(name=name, dtype=dtype, shape=tuple(shape))
            for name, dtype, shape in facts[end]
        )
        for end in ("inputs", "outputs")
    ]
    by_size: dict[int, dict[str, np.ndarray]] = {}
    for key, value in found.items():
        size, _, name = key.partition(" ")
        by_size.setdefault(int(size), {})[name] = value
    missing = [size for size in batch_sizes if size not in by_size]
    if missing:
        raise ExportError(
            "The SavedModel must give outputs. Received: none, in batches of "
            f"{missing}."
        )
    return Signature(key=SIGNATURE, inputs=ends[0], outputs=ends[1]), by_size


def main(request: str, response: str) -> None:
    """Answers one request; both are `.npz` files."""
    for name in ("keras", "tf_keras"):
        # An import of them raises from now on; TensorFlow does without.
        sys.modules[name] = None  # type: ignore[assignment]
    import tensorflow as tf

    arrays, facts = read(request)
    loaded = tf.saved_model.load(facts["model"])
    serve = loaded.signatures[SIGNATURE]
    results = {
        f"{size} {name}": value
        for size in facts["batch_sizes"]
        for name, value in _in_batches(tf, serve, arrays, size).items()
    }
    inputs = serve.structured_input_signature[1]
    write(
        response,
        results,
        # A signature sorts its names; the request has the model's order.
        inputs=_specs({name: inputs[name] for name in arrays}),
        outputs=_specs(serve.structured_outputs),
    )


def _in_batches(
    tf: Any, serve: Any, arrays: dict[str, np.ndarray], size: int
) -> dict[str, np.ndarray]:
    num_rows = len(next(iter(arrays.values())))
    batches = []
    for start in range(0, num_rows, size):
        rows = {k: v[start : start + size] for k, v in arrays.items()}
        outputs = serve(**{k: tf.constant(v) for k, v in rows.items()})
        batches.append({k: v.numpy() for k, v in outputs.items()})
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]
    }


def _specs(specs: Any) -> list[tuple[str, str, list[int | None]]]:
    return [
        (name, spec.dtype.name, list(spec.shape))
        for name, spec in specs.items()
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
