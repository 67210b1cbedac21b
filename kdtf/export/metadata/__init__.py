"""TFLite metadata: what a file says of itself, so that MediaPipe can run it."""

from kdtf.export.metadata.description import Described
from kdtf.export.metadata.description import describe_model
from kdtf.export.metadata.packing import attach
from kdtf.export.metadata.packing import read_metadata
from kdtf.export.metadata.records import ImageMetadata
from kdtf.export.metadata.records import Metadata
from kdtf.export.metadata.records import TextMetadata

__all__ = [
    "Described",
    "ImageMetadata",
    "Metadata",
    "TextMetadata",
    "attach",
    "describe_model",
    "read_metadata",
]
