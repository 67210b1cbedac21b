"""From a Keras model to a `.tflite` file that was run and compared.

Names are loaded on first use, so that the fresh process in which a file is
tried out (`kdtf.export.worker`) starts without Keras and TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from kdtf.export.android import write_android_project
    from kdtf.export.delegates import delegate_report
    from kdtf.export.errors import ExportError
    from kdtf.export.language_model import LanguageModelResult
    from kdtf.export.language_model import LanguageModelRunner
    from kdtf.export.language_model import export_language_model
    from kdtf.export.metadata import ImageMetadata
    from kdtf.export.metadata import Metadata
    from kdtf.export.metadata import TextMetadata
    from kdtf.export.metadata import read_metadata
    from kdtf.export.micro.microcontroller import export_microcontroller
    from kdtf.export.micro.result import MicrocontrollerResult
    from kdtf.export.result import ExportResult
    from kdtf.export.saved_model import SavedModelResult
    from kdtf.export.saved_model import export_saved_model
    from kdtf.export.tflite import export_tflite
    from kdtf.export.web import write_web_page

__all__ = [
    "ExportError",
    "ExportResult",
    "ImageMetadata",
    "LanguageModelResult",
    "LanguageModelRunner",
    "Metadata",
    "MicrocontrollerResult",
    "SavedModelResult",
    "TextMetadata",
    "delegate_report",
    "export_language_model",
    "export_microcontroller",
    "export_saved_model",
    "export_tflite",
    "read_metadata",
    "write_android_project",
    "write_web_page",
]

_HOMES = {
    "ExportError": "kdtf.export.errors",
    "ExportResult": "kdtf.export.result",
    "ImageMetadata": "kdtf.export.metadata",
    "LanguageModelResult": "kdtf.export.language_model",
    "LanguageModelRunner": "kdtf.export.language_model",
    "Metadata": "kdtf.export.metadata",
    "MicrocontrollerResult": "kdtf.export.micro.result",
    "SavedModelResult": "kdtf.export.saved_model",
    "TextMetadata": "kdtf.export.metadata",
    "delegate_report": "kdtf.export.delegates",
    "export_language_model": "kdtf.export.language_model",
    "export_microcontroller": "kdtf.export.micro.microcontroller",
    "export_saved_model": "kdtf.export.saved_model",
    "export_tflite": "kdtf.export.tflite",
    "read_metadata": "kdtf.export.metadata",
    "write_android_project": "kdtf.export.android",
    "write_web_page": "kdtf.export.web",
}


def __getattr__(name: str) -> Any:
    """Loads the module a public name lives in, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kdtf.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
