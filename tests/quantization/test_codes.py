import math

import numpy as np
import pytest

from kdtf.quantization import schemes
from kdtf.quantization.codes import codes_of
from kdtf.transforms.layout import Layout

COLUMNS = Layout(shape=(4, 2), contraction=(0,), output=(1,))


def test_integers_are_those_of_each_output():
    kernel = np.array([[1, 14], [-7, -6], [3, 2], [0, 0]], "float32")
    codes, num_scales = codes_of(kernel, schemes.Linear(num_bits=4), COLUMNS)
    assert codes.tolist() == [[1, -7, 3, 0], [7, -3, 1, 0]]
    assert num_scales == 2


def test_one_scale_serves_all_of_a_tensor():
    integers = np.array([[1, 127], [-70, -6], [3, 2], [0, 0]])
    scheme = schemes.Linear(num_bits=8, granularity="per_tensor")
    kernel = (integers * 0.25).astype("float32")
    codes, num_scales = codes_of(kernel, scheme, COLUMNS)
    assert num_scales == 1
    np.testing.assert_array_equal(codes[0], integers.ravel())


def test_groups_run_along_the_inputs():
    layout = Layout(shape=(64, 3), contraction=(0,), output=(1,))
    rng = np.random.default_rng(0)
    integers = rng.integers(-7, 8, (2, 32, 3))
    integers[:, 0] = 7
    steps = rng.uniform(1, 2, (2, 1, 3))
    kernel = (integers * steps).reshape(64, 3).astype("float32")
    scheme = schemes.Linear(num_bits=4, granularity="per_group", group_size=32)
    codes, num_scales = codes_of(kernel, scheme, layout)
    assert num_scales == 6
    expected = integers.transpose(0, 2, 1).reshape(6, 32)
    np.testing.assert_array_equal(codes, expected)


def test_a_peak_below_the_highest_integer_is_found():
    # Steps of 0.5, of which 7 would be 3.5: the learned step left it unused.
    kernel = np.array([[2.5], [-1.5], [0.5], [0.0]], "float32")
    layout = Layout(shape=(4, 1), contraction=(0,), output=(1,))
    codes, _ = codes_of(kernel, schemes.Linear(num_bits=4), layout)
    assert codes.tolist() == [[5, -3, 1, 0]]


def test_levels_of_powers_of_two_are_numbered():
    kernel = np.array([[4.0], [-2.0], [0.0], [1.0]], "float32")
    layout = Layout(shape=(4, 1), contraction=(0,), output=(1,))
    codes, _ = codes_of(kernel, schemes.PowerOfTwo(num_bits=3), layout)
    # -1, -1/2, -1/4, 0, 1/4, 1/2, 1
    assert codes.tolist() == [[6, 1, 3, 4]]


@pytest.mark.parametrize("scheme", [schemes.Linear(), schemes.PowerOfTwo()])
def test_a_kernel_of_zeros_has_one_code(scheme):
    codes, _ = codes_of(np.zeros((4, 2), "float32"), scheme, COLUMNS)
    assert np.unique(codes).size == 1
    assert math.prod(codes.shape) == 8
