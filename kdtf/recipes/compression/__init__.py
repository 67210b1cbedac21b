"""A budget in, the best verified file out."""

from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.compressing import compress
from kdtf.recipes.compression.result import Compression

__all__ = ["Budget", "Candidate", "Compression", "compress"]
