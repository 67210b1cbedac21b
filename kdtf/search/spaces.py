"""Ready-made spaces: encoders, decoders, CNNs, and what a model holds.

Each function gives a `Preset`: `search(preset.build, preset.space, ...)`.
"""

from kdtf.search.cnn_space import cnns
from kdtf.search.compression_space import compressions
from kdtf.search.preset import Preset
from kdtf.search.shrink_space import shrinkings
from kdtf.search.transformer_spaces import decoders
from kdtf.search.transformer_spaces import encoders

__all__ = [
    "Preset",
    "cnns",
    "compressions",
    "decoders",
    "encoders",
    "shrinkings",
]
