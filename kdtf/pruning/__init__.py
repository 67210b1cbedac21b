"""Pruning: weights that matter little become 0.

Four questions, each answered by a pure module: which weights matter (`scores`,
`criteria`), what goes together (`structures`), how much each kernel loses
(`allocation`) and when (`kdtf.schedules`, `updates`).
"""

from kdtf.pruning.criteria import SNIP
from kdtf.pruning.criteria import APoZ
from kdtf.pruning.criteria import Magnitude
from kdtf.pruning.criteria import MeanActivation
from kdtf.pruning.criteria import Movement
from kdtf.pruning.criteria import Taylor
from kdtf.pruning.criteria import Wanda
from kdtf.pruning.criterion import Criterion
from kdtf.pruning.pruner import prune
from kdtf.pruning.report import SparsityReport
from kdtf.pruning.report import sparsity_report
from kdtf.pruning.shrinking import ShrinkPlan
from kdtf.pruning.shrinking import VocabularyPlan
from kdtf.pruning.shrinking import plan_shrink
from kdtf.pruning.shrinking import plan_vocabulary
from kdtf.pruning.shrinking import shrink
from kdtf.pruning.shrinking import trim_vocabulary
from kdtf.pruning.structure import Structure
from kdtf.pruning.structures import NM
from kdtf.pruning.structures import Block
from kdtf.pruning.structures import PerOutput
from kdtf.pruning.structures import Units
from kdtf.pruning.structures import Unstructured

__all__ = [
    "APoZ",
    "Block",
    "Criterion",
    "Magnitude",
    "MeanActivation",
    "Movement",
    "NM",
    "PerOutput",
    "SNIP",
    "ShrinkPlan",
    "SparsityReport",
    "Structure",
    "Taylor",
    "Units",
    "Unstructured",
    "VocabularyPlan",
    "Wanda",
    "plan_shrink",
    "plan_vocabulary",
    "prune",
    "shrink",
    "sparsity_report",
    "trim_vocabulary",
]
