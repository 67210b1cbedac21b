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
    from kdtf.export import export_tflite
    from kdtf.pruning import prune
    from kdtf.pruning import sparsity_report
    from kdtf.quantization import cluster
    from kdtf.quantization import quantization_report
    from kdtf.quantization import quantize
    from kdtf.quantization import quantize_aware
    from kdtf.quantization import sensitivity
    from kdtf.schedules import ConstantSchedule
    from kdtf.schedules import CosineSchedule
    from kdtf.schedules import OneShotSchedule
    from kdtf.schedules import PolynomialSchedule
    from kdtf.search.searching import search
    from kdtf.transforms.strip import strip

__all__ = [
    "Comparison",
    "ConstantSchedule",
    "CosineSchedule",
    "Distiller",
    "ExportError",
    "ExportResult",
    "OneShotSchedule",
    "PolynomialSchedule",
    "TeacherCache",
    "__version__",
    "cache_teacher",
    "cluster",
    "compare",
    "export_tflite",
    "prune",
    "quantization_report",
    "quantize",
    "quantize_aware",
    "search",
    "sensitivity",
    "sparsity_report",
    "strip",
]

_HOMES = {
    "Comparison": "kdtf.evaluation",
    "ConstantSchedule": "kdtf.schedules",
    "CosineSchedule": "kdtf.schedules",
    "Distiller": "kdtf.distillation",
    "ExportError": "kdtf.export",
    "ExportResult": "kdtf.export",
    "OneShotSchedule": "kdtf.schedules",
    "PolynomialSchedule": "kdtf.schedules",
    "TeacherCache": "kdtf.distillation",
    "cache_teacher": "kdtf.distillation",
    "cluster": "kdtf.quantization",
    "compare": "kdtf.evaluation",
    "export_tflite": "kdtf.export",
    "prune": "kdtf.pruning",
    "quantization_report": "kdtf.quantization",
    "quantize": "kdtf.quantization",
    "quantize_aware": "kdtf.quantization",
    "sensitivity": "kdtf.quantization",
    "sparsity_report": "kdtf.pruning",
    "strip": "kdtf.transforms.strip",
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
