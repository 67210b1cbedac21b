"""From a Keras model to a `.tflite` file that was run and compared.

Names are loaded on first use, so that the fresh process in which a file is
tried out (`kdtf.export.worker`) starts without Keras and TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from kdtf.export.errors import ExportError
    from kdtf.export.result import ExportResult
    from kdtf.export.tflite import export_tflite

__all__ = ["ExportError", "ExportResult", "export_tflite"]

_HOMES = {
    "ExportError": "kdtf.export.errors",
    "ExportResult": "kdtf.export.result",
    "export_tflite": "kdtf.export.tflite",
}


def __getattr__(name: str) -> Any:
    """Loads the module a public name lives in, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kdtf.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
