"""Structured removal: a truly smaller model, from its dependency graph."""

from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width
from kdtf.pruning.shrinking.shrinker import plan_shrink
from kdtf.pruning.shrinking.shrinker import shrink
from kdtf.pruning.shrinking.vocabulary import VocabularyPlan
from kdtf.pruning.shrinking.vocabulary import plan_vocabulary
from kdtf.pruning.shrinking.vocabulary import trim_vocabulary

__all__ = [
    "ShrinkPlan",
    "VocabularyPlan",
    "Width",
    "plan_shrink",
    "plan_vocabulary",
    "shrink",
    "trim_vocabulary",
]
