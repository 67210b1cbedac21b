"""Which technique fits: measured before anything is trained."""

from kdtf.recipes.advice.advising import advise
from kdtf.recipes.advice.result import Advice
from kdtf.recipes.advice.result import Suggestion

__all__ = ["Advice", "Suggestion", "advise"]
