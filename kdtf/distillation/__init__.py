"""Knowledge distillation: a student learns from a teacher's outputs."""

from kdtf.distillation.distiller import Distiller
from kdtf.distillation.losses import JensenShannonDivergence
from kdtf.distillation.losses import jensen_shannon_divergence
from kdtf.distillation.losses import kl_divergence
from kdtf.distillation.losses import mean_squared_logits
from kdtf.distillation.losses import reverse_kl_divergence

__all__ = [
    "Distiller",
    "JensenShannonDivergence",
    "jensen_shannon_divergence",
    "kl_divergence",
    "mean_squared_logits",
    "reverse_kl_divergence",
]
