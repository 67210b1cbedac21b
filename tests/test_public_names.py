"""A snapshot of what users may rely on: changing it is a decision."""

import kdtf

NAMES = [
    "Advice",
    "Comparison",
    "Compression",
    "ConstantSchedule",
    "CosineSchedule",
    "Distiller",
    "ExportError",
    "ExportResult",
    "ImageMetadata",
    "LanguageModelResult",
    "LanguageModelRunner",
    "Metadata",
    "MicrocontrollerResult",
    "OneShotSchedule",
    "PolynomialSchedule",
    "SavedModelResult",
    "TeacherCache",
    "TextMetadata",
    "__version__",
    "advise",
    "cache_teacher",
    "cluster",
    "compare",
    "compress",
    "delegate_report",
    "export_language_model",
    "export_microcontroller",
    "export_saved_model",
    "export_tflite",
    "plan_shrink",
    "plan_vocabulary",
    "prune",
    "quantization_report",
    "quantize",
    "quantize_aware",
    "read_metadata",
    "search",
    "sensitivity",
    "shrink",
    "sparsity_report",
    "strip",
    "trim_vocabulary",
    "write_android_project",
    "write_web_page",
]


def test_public_names_are_the_known_ones():
    assert kdtf.__all__ == NAMES
    assert dir(kdtf) == NAMES


def test_every_public_name_loads_and_is_documented():
    for name in NAMES:
        value = getattr(kdtf, name)
        assert value.__doc__, name


def test_unknown_name_is_an_attribute_error():
    try:
        kdtf.no_such_name  # noqa: B018
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError("kdtf.no_such_name exists")
