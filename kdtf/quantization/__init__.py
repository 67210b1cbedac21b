"""Weights in fewer bits."""

from kdtf.quantization.clustering import cluster

__all__ = ["cluster"]
