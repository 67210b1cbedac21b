"""What a teacher said of every example, on disk: to distil without it."""

from kdtf.distillation.cache.caching import cache_teacher
from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import CacheSettings
from kdtf.distillation.cache.teacher_cache import TeacherCache
from kdtf.distillation.cache.writing import CacheWriter

__all__ = [
    "CacheError",
    "CacheSettings",
    "CacheWriter",
    "TeacherCache",
    "cache_teacher",
]
