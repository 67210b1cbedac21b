"""Rounding weights after training so that what a model gives changes little.

Ours, because those at hand do not end in a `.tflite` file: Keras's own GPTQ and
AWQ want blocks declared for them and asymmetric grids, ai-edge-quantizer's GPTQ
works on the finished file only; and both take the whole inverse Hessian where
the paper takes its Cholesky factor, at about three times the error.
"""

from kdtf.quantization.compensation.compensated_kernels import METHODS
from kdtf.quantization.compensation.compensated_kernels import CompensatedKernel
from kdtf.quantization.compensation.compensated_kernels import error_compensated

__all__ = ["METHODS", "CompensatedKernel", "error_compensated"]
