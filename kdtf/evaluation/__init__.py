"""What a model costs and what it can do: size, latency and quality."""

from kdtf.evaluation.comparison import Comparison
from kdtf.evaluation.inspection import Inspection
from kdtf.evaluation.inspection import inspect_model
from kdtf.evaluation.loading import load_keras_model
from kdtf.evaluation.rows import Row
from kdtf.evaluation.side_by_side import compare

__all__ = [
    "Comparison",
    "Inspection",
    "Row",
    "compare",
    "inspect_model",
    "load_keras_model",
]
