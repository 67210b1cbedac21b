"""Structured removal: a truly smaller model, from its dependency graph."""

from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width
from kdtf.pruning.shrinking.shrinker import plan_shrink
from kdtf.pruning.shrinking.shrinker import shrink

__all__ = ["ShrinkPlan", "Width", "plan_shrink", "shrink"]
