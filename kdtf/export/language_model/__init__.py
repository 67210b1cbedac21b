"""Language models with a cache, for LiteRT and LiteRT-LM, and their runner.

Names are loaded on first use: the runner needs neither Keras nor TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from kdtf.export.language_model.exporting import export_language_model
    from kdtf.export.language_model.result import LanguageModelResult
    from kdtf.export.language_model.runner import LanguageModelRunner

__all__ = [
    "LanguageModelResult",
    "LanguageModelRunner",
    "export_language_model",
]

_HOMES = {
    "LanguageModelResult": "result",
    "LanguageModelRunner": "runner",
    "export_language_model": "exporting",
}


def __getattr__(name: str) -> Any:
    """Loads the module a public name lives in, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
