"""Weights and activations in fewer bits, in training and after it."""

from kdtf.quantization.clustering import cluster
from kdtf.quantization.post_training import quantize
from kdtf.quantization.report import QuantizationReport
from kdtf.quantization.report import quantization_report
from kdtf.quantization.schemes import SCHEMES
from kdtf.quantization.schemes import Activations
from kdtf.quantization.schemes import Codebook
from kdtf.quantization.schemes import Linear
from kdtf.quantization.schemes import NormalFloat4
from kdtf.quantization.schemes import PowerOfTwo
from kdtf.quantization.schemes import Scheme
from kdtf.quantization.sensitivities import Sensitivity
from kdtf.quantization.sensitivities import sensitivity
from kdtf.quantization.training import quantize_aware

__all__ = [
    "SCHEMES",
    "Activations",
    "Codebook",
    "Linear",
    "NormalFloat4",
    "PowerOfTwo",
    "QuantizationReport",
    "Scheme",
    "Sensitivity",
    "cluster",
    "quantization_report",
    "quantize",
    "quantize_aware",
    "sensitivity",
]
