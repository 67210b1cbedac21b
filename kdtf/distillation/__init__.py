"""Knowledge distillation: a student learns from a teacher's outputs."""

from kdtf.distillation.absolute import total_variation_distance
from kdtf.distillation.absolute import universal_logit_distance
from kdtf.distillation.bounded import SkewedKLDivergence
from kdtf.distillation.bounded import SkewedReverseKLDivergence
from kdtf.distillation.bounded import skewed_kl_divergence
from kdtf.distillation.bounded import skewed_reverse_kl_divergence
from kdtf.distillation.cache import CacheError
from kdtf.distillation.cache import TeacherCache
from kdtf.distillation.cache import cache_teacher
from kdtf.distillation.decoupled import DecoupledDistillation
from kdtf.distillation.decoupled import decoupled_kl_divergence
from kdtf.distillation.distiller import Distiller
from kdtf.distillation.features import AttentionMaps
from kdtf.distillation.features import AttentionRelations
from kdtf.distillation.features import HiddenStates
from kdtf.distillation.features import PairwiseAngles
from kdtf.distillation.features import PairwiseDistances
from kdtf.distillation.generation import generate_dataset
from kdtf.distillation.generations import assistant_chain
from kdtf.distillation.generations import born_again
from kdtf.distillation.generations import mutual
from kdtf.distillation.initialization import initialize_student
from kdtf.distillation.initialization import student_of
from kdtf.distillation.losses import JensenShannonDivergence
from kdtf.distillation.losses import jensen_shannon_divergence
from kdtf.distillation.losses import kl_divergence
from kdtf.distillation.losses import mean_squared_logits
from kdtf.distillation.losses import reverse_kl_divergence
from kdtf.distillation.on_policy import on_policy_dataset
from kdtf.distillation.relational import RelationalDistillation
from kdtf.distillation.relational import relational_distance

__all__ = [
    "assistant_chain",
    "born_again",
    "mutual",
    "AttentionMaps",
    "AttentionRelations",
    "CacheError",
    "DecoupledDistillation",
    "Distiller",
    "HiddenStates",
    "JensenShannonDivergence",
    "PairwiseAngles",
    "PairwiseDistances",
    "RelationalDistillation",
    "SkewedKLDivergence",
    "SkewedReverseKLDivergence",
    "TeacherCache",
    "cache_teacher",
    "decoupled_kl_divergence",
    "generate_dataset",
    "initialize_student",
    "jensen_shannon_divergence",
    "kl_divergence",
    "mean_squared_logits",
    "on_policy_dataset",
    "relational_distance",
    "reverse_kl_divergence",
    "skewed_kl_divergence",
    "skewed_reverse_kl_divergence",
    "student_of",
    "total_variation_distance",
    "universal_logit_distance",
]
