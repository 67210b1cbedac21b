"""A minimal Android app around a `.tflite` file."""

from kdtf.export.android.project import write_android_project

__all__ = ["write_android_project"]
