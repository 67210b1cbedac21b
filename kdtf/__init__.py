"""kdtf: make trained Keras models small and fast, and prove what it cost.

Every verb takes a `keras.Model` and gives it back; `export_tflite` ships it
and checks what it shipped; `compare` says what it cost. Names are loaded on
first use (PEP 562), so `import kdtf` costs milliseconds, not TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING
from typing import Any

from kdtf._backend import check_backend
from kdtf._version import __version__

if TYPE_CHECKING:
    from kdtf.distillation import Distiller
    from kdtf.distillation import TeacherCache
    from kdtf.distillation import cache_teacher
    from kdtf.evaluation import Comparison
    from kdtf.evaluation import compare
    from kdtf.export import ExportError
    from kdtf.export import ExportResult
    from kdtf.export import ImageMetadata
    from kdtf.export import LanguageModelResult
    from kdtf.export import LanguageModelRunner
    from kdtf.export import Metadata
    from kdtf.export import MicrocontrollerResult
    from kdtf.export import SavedModelResult
    from kdtf.export import TextMetadata
    from kdtf.export import delegate_report
    from kdtf.export import export_language_model
    from kdtf.export import export_microcontroller
    from kdtf.export import export_saved_model
    from kdtf.export import export_tflite
    from kdtf.export import read_metadata
    from kdtf.export import write_android_project
    from kdtf.export import write_web_page
    from kdtf.pruning import plan_shrink
    from kdtf.pruning import plan_vocabulary
    from kdtf.pruning import prune
    from kdtf.pruning import shrink
    from kdtf.pruning import sparsity_report
    from kdtf.pruning import trim_vocabulary
    from kdtf.quantization import cluster
    from kdtf.quantization import quantization_report
    from kdtf.quantization import quantize
    from kdtf.quantization import quantize_aware
    from kdtf.quantization import sensitivity
    from kdtf.recipes.advice import Advice
    from kdtf.recipes.advice import advise
    from kdtf.recipes.compression import Compression
    from kdtf.recipes.compression import compress
    from kdtf.schedules import ConstantSchedule
    from kdtf.schedules import CosineSchedule
    from kdtf.schedules import OneShotSchedule
    from kdtf.schedules import PolynomialSchedule
    from kdtf.search.searching import search
    from kdtf.transforms.strip import strip

__all__ = [
    "Advice",
    "Comparison",
    "Compression",
    "ConstantSchedule",
    "CosineSchedule",
    "Distiller",
    "ExportError",
    "ExportResult",
    "ImageMetadata",
    "LanguageModelResult",
    "LanguageModelRunner",
    "Metadata",
    "MicrocontrollerResult",
    "OneShotSchedule",
    "PolynomialSchedule",
    "SavedModelResult",
    "TeacherCache",
    "TextMetadata",
    "__version__",
    "advise",
    "cache_teacher",
    "cluster",
    "compare",
    "compress",
    "delegate_report",
    "export_language_model",
    "export_microcontroller",
    "export_saved_model",
    "export_tflite",
    "plan_shrink",
    "plan_vocabulary",
    "prune",
    "quantization_report",
    "quantize",
    "quantize_aware",
    "read_metadata",
    "search",
    "sensitivity",
    "shrink",
    "sparsity_report",
    "strip",
    "trim_vocabulary",
    "write_android_project",
    "write_web_page",
]

_HOMES = {
    "Advice": "kdtf.recipes.advice",
    "Comparison": "kdtf.evaluation",
    "Compression": "kdtf.recipes.compression",
    "ConstantSchedule": "kdtf.schedules",
    "CosineSchedule": "kdtf.schedules",
    "Distiller": "kdtf.distillation",
    "ExportError": "kdtf.export",
    "ExportResult": "kdtf.export",
    "ImageMetadata": "kdtf.export",
    "LanguageModelResult": "kdtf.export",
    "LanguageModelRunner": "kdtf.export",
    "Metadata": "kdtf.export",
    "MicrocontrollerResult": "kdtf.export",
    "OneShotSchedule": "kdtf.schedules",
    "PolynomialSchedule": "kdtf.schedules",
    "SavedModelResult": "kdtf.export",
    "TeacherCache": "kdtf.distillation",
    "TextMetadata": "kdtf.export",
    "advise": "kdtf.recipes.advice",
    "cache_teacher": "kdtf.distillation",
    "cluster": "kdtf.quantization",
    "compare": "kdtf.evaluation",
    "compress": "kdtf.recipes.compression",
    "delegate_report": "kdtf.export",
    "export_language_model": "kdtf.export",
    "export_microcontroller": "kdtf.export",
    "export_saved_model": "kdtf.export",
    "export_tflite": "kdtf.export",
    "plan_shrink": "kdtf.pruning",
    "plan_vocabulary": "kdtf.pruning",
    "prune": "kdtf.pruning",
    "quantization_report": "kdtf.quantization",
    "quantize": "kdtf.quantization",
    "quantize_aware": "kdtf.quantization",
    "read_metadata": "kdtf.export",
    "sensitivity": "kdtf.quantization",
    "shrink": "kdtf.pruning",
    "sparsity_report": "kdtf.pruning",
    "strip": "kdtf.transforms.strip",
    "trim_vocabulary": "kdtf.pruning",
    "write_android_project": "kdtf.export",
    "write_web_page": "kdtf.export",
}

# Folders and modules that users reach as `kdtf.data` and so on.
_ROOMS = (
    "data",
    "distillation",
    "evaluation",
    "export",
    "pruning",
    "quantization",
    "schedules",
    # The room is the verb: `kdtf.search(...)` calls it.
    "search",
)

check_backend()


def __getattr__(name: str) -> Any:
    """Loads the module a public name lives in, on first use."""
    if name in _ROOMS:
        return importlib.import_module(f"kdtf.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'kdtf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted(__all__)
