"""A snapshot of what users may rely on: changing it is a decision."""

import kdtf

NAMES = [
    "Comparison",
    "ConstantSchedule",
    "CosineSchedule",
    "Distiller",
    "ExportError",
    "ExportResult",
    "OneShotSchedule",
    "PolynomialSchedule",
    "TeacherCache",
    "__version__",
    "cache_teacher",
    "cluster",
    "compare",
    "export_tflite",
    "prune",
    "quantization_report",
    "quantize",
    "quantize_aware",
    "search",
    "sensitivity",
    "sparsity_report",
    "strip",
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
