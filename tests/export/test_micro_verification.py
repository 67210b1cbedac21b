"""From real samples to the integers of a file's inputs."""

import numpy as np
import pytest

from kdtf.export.micro.verification import given_samples
from kdtf.export.micro.verification import integer_inputs
from kdtf.export.micro.verification import on_grid
from kdtf.export.samples import Samples
from kdtf.flatbuffer import TensorSpec

IMAGE = TensorSpec(
    name="image", dtype="int8", shape=(1, 2), scale=0.25, zero_point=-8
)
IDS = TensorSpec(name="ids", dtype="int32", shape=(1, 3))


def test_reals_are_rounded_onto_the_grid_and_clipped():
    values = np.array([[0.0, 0.3], [-40.0, 40.0]])
    assert on_grid(values, IMAGE).tolist() == [[-8, -7], [-128, 127]]
    assert on_grid(values, IMAGE).dtype == "int8"


def test_integers_without_a_scale_pass():
    assert on_grid(np.array([[1, 2, 300]]), IDS).tolist() == [[1, 2, 300]]


def test_inputs_come_in_the_files_order():
    given = Samples(
        arrays={
            "ids": np.array([[1, 2, 3]]),
            "image": np.array([[0.0, 1.0]], "float32"),
        },
        source="1 sample",
    )
    found = integer_inputs((IMAGE, IDS), given)
    assert list(found.arrays) == ["image", "ids"]
    assert found.arrays["image"].tolist() == [[-8, -4]]
    assert found.source == "1 sample"


def test_random_integers_fill_the_range_alike_each_time():
    specs = (
        TensorSpec(name="x", dtype="int8", shape=(1, 500), scale=0.1),
        IDS,
    )
    first, second = (integer_inputs(specs, None) for _ in range(2))
    x = first.arrays["x"]
    assert (x.shape, x.dtype) == ((16, 500), "int8")
    assert (x.min(), x.max()) == (-128, 127)
    assert set(first.arrays["ids"].ravel().tolist()) == {0, 1}
    np.testing.assert_array_equal(x, second.arrays["x"])


def read(**data):
    return given_samples(
        None,
        (IMAGE, IDS),
        **{"representative_data": None, "verify_data": None, **data},
    )


def pair(rows, value=0):
    # Bytes of a picture are real values too.
    image = np.full((rows, 2), 200 + value, "uint8")
    return {"image": image, "ids": np.zeros((rows, 3), "int64")}


def test_data_for_a_file_is_real_and_at_most_a_hundred():
    samples = read(representative_data=pair(150))
    assert samples.arrays["image"].dtype == "float32"
    assert samples.arrays["image"].shape == (100, 2)
    assert samples.source == "100 samples of representative_data"


def test_verify_data_goes_first_and_none_gives_none():
    samples = read(representative_data=pair(3), verify_data=pair(2, value=1))
    assert samples.arrays["image"].tolist() == [[201.0, 201.0]] * 2
    assert samples.source == "2 samples of verify_data"
    assert read() is None


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"'image' in `verify_data`.*\(2, 5\)"):
        read(verify_data={**pair(2), "image": np.zeros((2, 5))})
    with pytest.raises(ValueError, match="missing.*image"):
        read(verify_data={"ids": np.zeros((2, 3))})
