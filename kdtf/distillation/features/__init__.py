"""What a student learns from inside its teacher, in one forward pass each."""

from kdtf.distillation.features.capture import Capture
from kdtf.distillation.features.capture import Record
from kdtf.distillation.features.capture import padding_mask_of
from kdtf.distillation.features.feature import Feature
from kdtf.distillation.features.matcher import FeatureMatcher
from kdtf.distillation.features.terms import AttentionMaps
from kdtf.distillation.features.terms import AttentionRelations
from kdtf.distillation.features.terms import HiddenStates
from kdtf.distillation.features.terms import PairwiseAngles
from kdtf.distillation.features.terms import PairwiseDistances

__all__ = [
    "AttentionMaps",
    "AttentionRelations",
    "Capture",
    "Feature",
    "FeatureMatcher",
    "HiddenStates",
    "PairwiseAngles",
    "PairwiseDistances",
    "Record",
    "padding_mask_of",
]
