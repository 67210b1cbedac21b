"""Reads the arrays a command works on."""

import os
import zipfile
from typing import Any

_LABELS = "y"
_WEIGHTS = "sample_weight"


def read_arrays(path: str | os.PathLike[str]) -> tuple[Any, Any, Any]:
    """Reads inputs, labels and sample weights from an `.npz` file.

    Args:
        path: Has the array `x`, or for several inputs one array under the
            name of each; optionally `y` and `sample_weight`.

    Returns:
        `(x, y, sample_weight)`; `x` is an array or a dict of arrays, the
        others are None if the file has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no `.npz` file, holds objects instead of numbers, or
            has no inputs.
    """
    import numpy as np

    try:
        # Pickled objects would run code from the file.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except FileNotFoundError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            "`--data` must be an .npz file of plain arrays. Received: "
            f"path={os.fspath(path)!r}, refused with: {error}. Write one "
            "with `numpy.savez(path, x=inputs, y=labels)`."
        ) from error
    labels = arrays.pop(_LABELS, None)
    weights = arrays.pop(_WEIGHTS, None)
    if not arrays:
        raise ValueError(
            "`--data` must hold the inputs under `x`, or under their names. "
            f"Received: path={os.fspath(path)!r} without any."
        )
    return arrays["x"] if list(arrays) == ["x"] else arrays, labels, weights
