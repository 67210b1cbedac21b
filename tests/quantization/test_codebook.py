import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization import codebook as codebooks
from kdtf.quantization.kmeans import INITIALIZATIONS

STARTS = sorted(INITIALIZATIONS)


def array(tensor):
    return np.asarray(tensor)


def test_kmeans_by_hand():
    values = np.array([[0.0, 1.0, 2.0], [9.0, 10.0, 11.0]])
    got = codebooks.kmeans_codebook(values, 2, keep_zero=False)
    assert got.dtype == np.float32
    assert got.tolist() == [1.0, 10.0]


def test_kept_zero_takes_no_part_in_the_means():
    values = [0.0] * 50 + [2.0, 3.0, 4.0, -5.0]
    assert codebooks.kmeans_codebook(values, 3).tolist() == [-5.0, 0.0, 3.0]


def test_what_is_nearest_to_zero_is_the_zeros_own():
    # 0.25 pulls at no mean; at the end it is nearest to 0.
    values = np.array([0.25, 4.0, 5.0, -8.0], "float32")
    got = codebooks.kmeans_codebook(values, 3)
    assert got.tolist() == [-8.0, 0.0, 4.5]
    indices = array(codebooks.nearest_indices(values, got))
    assert indices.tolist() == [1, 2, 2, 0]


@pytest.mark.parametrize("start", STARTS)
def test_kmeans_reaches_as_low_as_scikit_learn(start, rng):
    from sklearn.cluster import KMeans

    values = rng.normal(size=2000).astype("float32")
    got = codebooks.kmeans_codebook(
        values, 8, keep_zero=False, initialization=start, num_iterations=1000
    )
    oracle = KMeans(8, n_init=5, random_state=0).fit(values[:, None])
    error = ((values[:, None] - got) ** 2).min(axis=1).sum()
    # Local optima differ by a few percent; a wrong mean costs far more.
    assert error <= 1.1 * oracle.inertia_


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("num_entries", [2, 3, 16, 256])
def test_kmeans_is_where_a_step_changes_nothing(
    start, keep_zero, num_entries, rng
):
    values = rng.normal(size=3000).astype("float32")
    values[rng.random(3000) < 0.5] = 0.0
    got = codebooks.kmeans_codebook(
        values,
        num_entries,
        keep_zero=keep_zero,
        num_iterations=5000,
        initialization=start,
    )
    assert got.shape == (num_entries,)
    assert (np.diff(got) > 0).all()
    assert np.count_nonzero(got == 0) == 1 or not keep_zero
    indices = codebooks.nearest_indices(values, got)
    again = codebooks.updated_codebook(
        values, indices, got, keep_zero=keep_zero
    )
    # Prefix sums against direct sums, both in float64, then float32.
    np.testing.assert_allclose(array(again), got, rtol=1e-6, atol=1e-12)


def test_pruned_weights_stay_pruned(rng):
    values = rng.normal(size=(40, 50)).astype("float32")
    mask = rng.random((40, 50)) < 0.3
    got = codebooks.kmeans_codebook(values * mask, 16)
    indices = codebooks.nearest_indices(values * mask, got)
    rounded = array(codebooks.look_up(indices, got))
    assert (rounded[~mask] == 0).all()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_keep_one_zero_in_order(start, sign, rng):
    values = sign * (1.0 + rng.random(500)).astype("float32")
    got = codebooks.kmeans_codebook(values, 4, initialization=start)
    assert (np.diff(got) > 0).all()
    assert got[0 if sign > 0 else -1] == 0


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("num_iterations", [0, 100])
def test_neighbours_in_float32_are_in_order(start, num_iterations):
    # Evenly spaced entries round to equal ones.
    values = np.float32(-1.5) + np.arange(4, dtype="float32") * 2.0**-23
    got = codebooks.kmeans_codebook(
        values, 4, num_iterations=num_iterations, initialization=start
    )
    assert len(set(values.tolist())) == 4
    assert (np.diff(got) >= 0).all()
    assert got[-1] == 0 and (got[:-1] < 0).all()


@pytest.mark.parametrize("start", STARTS)
def test_few_distinct_values_are_the_entries(start):
    values = [3.0, -1.0, 3.0, -1.0, -1.0]
    got = codebooks.kmeans_codebook(values, 5, initialization=start)
    assert got.tolist() == [-1.0, 0.0, 3.0, 3.0, 3.0]
    got = codebooks.kmeans_codebook(values, 4, keep_zero=False)
    assert got.tolist() == [-1.0, 3.0, 3.0, 3.0]
    got = codebooks.kmeans_codebook([-2.0, -2.0], 3)
    assert got.tolist() == [-2.0, -2.0, 0.0]


def test_one_value_and_only_zeros():
    assert codebooks.kmeans_codebook([0.5], 2).tolist() == [0.0, 0.5]
    got = codebooks.kmeans_codebook(np.array([0.0, -0.0]), 3)
    assert got.tolist() == [0.0, 1.0, 1.0]
    assert not np.signbit(got).any()
    got = codebooks.kmeans_codebook(np.zeros(4), 2, keep_zero=False)
    assert got.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("start", STARTS)
def test_many_repeated_values_leave_no_entry_unused(start):
    values = [0.5] * 1000 + [1.0, 2.0, 3.0, 4.0]
    got = codebooks.kmeans_codebook(values, 5, initialization=start)
    indices = array(codebooks.nearest_indices(values, got))
    assert (np.diff(got) > 0).all()
    assert set(indices.tolist()) >= {1, 2, 3, 4}
    assert np.count_nonzero(got == 0) == 1


def test_seed_decides_the_draws(rng):
    values = rng.normal(size=300)

    def run(seed):
        return codebooks.kmeans_codebook(
            values,
            8,
            initialization="kmeans++",
            num_iterations=0,
            seed=seed,
        ).tolist()

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_tiny_and_subnormal_values_are_no_zeros():
    tiny = float(np.float32(1e-40))
    got = codebooks.kmeans_codebook([tiny, 0.0, -tiny], 3)
    assert got.tolist() == [-tiny, 0.0, tiny]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_kmeans_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="`values` must be finite.*1 values"):
        codebooks.kmeans_codebook(np.array([1.0, bad]), 2)


def test_kmeans_refuses_arguments_out_of_range():
    make = codebooks.kmeans_codebook
    for count in (1, 257, 0, -1):
        with pytest.raises(ValueError, match=f"num_entries={count}"):
            make([1.0], count)
    for count in (2.0, True, "4"):
        with pytest.raises(TypeError, match="num_entries="):
            make([1.0], count)
    with pytest.raises(ValueError, match="'density', 'kmeans.*'forgy'"):
        make([1.0], 2, initialization="forgy")
    with pytest.raises(ValueError, match="num_iterations=-1"):
        make([1.0], 2, num_iterations=-1)
    with pytest.raises(ValueError, match=r"at least one.*\(0, 3\)"):
        make(np.zeros((0, 3)), 2)


def test_middle_goes_to_the_lower_entry():
    values = [[-2.0, -0.5], [0.5, 3.0]]
    got = codebooks.nearest_indices(values, [-1.0, 0.0, 1.0])
    assert array(got).tolist() == [[0, 0], [1, 2]]
    assert array(got).dtype == np.int32


def test_nearest_equals_argmin(rng):
    codebook = np.sort(rng.integers(-50, 50, 16)).astype("float32")
    # Halves of integers: every middle is hit, and equal entries occur.
    values = rng.integers(-120, 120, (30, 40)).astype("float32") / 2
    expected = np.abs(values[..., None] - codebook).argmin(axis=-1)
    got = codebooks.nearest_indices(values, codebook)
    np.testing.assert_array_equal(array(got), expected)


def test_nearest_in_a_codebook_of_one_and_of_great_entries():
    got = codebooks.nearest_indices([1.0, -1.0], [0.5])
    assert array(got).tolist() == [0, 0]
    got = codebooks.nearest_indices([3.1e38, 2e38], [1e38, 2e38, 3e38])
    assert array(got).tolist() == [2, 1]


def test_nan_in_an_array_is_refused():
    bad = np.array([1.0, np.nan, np.nan])
    with pytest.raises(ValueError, match="2 nan of 3"):
        codebooks.nearest_indices(bad, [0.0, 1.0])
    with pytest.raises(ValueError, match="2 nan of 3"):
        codebooks.normal_float4(bad, group_size=3)


def test_places_counts_boundaries():
    values = tf.constant([[0.5, 1.0], [2.0, 9.0]])
    for side in ("left", "right"):
        got = codebooks.places([1.0, 2.0], values, side=side)
        expected = np.searchsorted([1.0, 2.0], values.numpy(), side)
        np.testing.assert_array_equal(array(got), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_look_up_of_any_integer(dtype):
    indices = np.array([[2, 0]], dtype)
    got = array(codebooks.look_up(indices, np.array([-1.0, 0.0, 3.0])))
    assert got.dtype == np.float32
    assert got.tolist() == [[3.0, -1.0]]


def test_gradient_of_an_entry_is_its_members_sum():
    codebook = tf.Variable([-1.0, 0.0, 2.0])
    with tf.GradientTape() as tape:
        found = codebooks.look_up([0, 2, 2, 0], codebook)
        loss = tf.reduce_sum(found * [1.0, 10.0, 100.0, 1000.0])
    gradient = tf.convert_to_tensor(tape.gradient(loss, codebook))
    assert gradient.numpy().tolist() == [1001.0, 0.0, 110.0]


def test_update_by_hand():
    values = np.array([[-3.0, -1.0], [0.25, 5.0]])
    codebook = [-2.5, 0.0, 4.0, 100.0]
    indices = codebooks.nearest_indices(values, codebook)
    got = codebooks.updated_codebook(values, indices, codebook)
    assert array(indices).tolist() == [[0, 1], [1, 2]]
    assert array(got).tolist() == [-3.0, 0.0, 5.0, 100.0]
    got = codebooks.updated_codebook(values, indices, codebook, keep_zero=False)
    assert array(got).tolist() == [-3.0, -0.375, 5.0, 100.0]


def test_update_equals_numpy_and_keeps_the_order(rng):
    values = rng.normal(size=(50, 40)).astype("float32")
    codebook = np.sort(rng.normal(size=32)).astype("float32")
    indices = array(codebooks.nearest_indices(values, codebook))
    got = array(
        codebooks.updated_codebook(values, indices, codebook, keep_zero=False)
    )
    for i, entry in enumerate(codebook):
        members = values[indices == i].astype(float)
        expected = members.mean() if members.size else entry
        np.testing.assert_allclose(got[i], expected, rtol=1e-6)
    assert (np.diff(got) > 0).all()


def test_rounding_does_not_swap_neighbours():
    low = np.float32(0.2)
    high = np.nextafter(low, np.float32(1.0))
    values = np.array([low] * 333 + [high] * 777, "float32")
    indices = (values == high).astype("int32")
    got = codebooks.updated_codebook(values, indices, [0.1, 0.3])
    assert array(got).tolist() == [low, high]


def test_training_steps_lower_the_error(rng):
    values = rng.normal(size=5000).astype("float32")
    codebook = np.linspace(-4, 4, 9).astype("float32")
    errors = []
    for _ in range(8):
        indices = codebooks.nearest_indices(values, codebook)
        rounded = array(codebooks.look_up(indices, codebook))
        errors.append(((values - rounded) ** 2).mean())
        codebook = codebooks.updated_codebook(values, indices, codebook)
    assert (np.diff(errors) < 0).all()
    assert codebook[4] == 0


@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_equal_eager(jit, rng):
    values = rng.normal(size=(6, 32)).astype("float32")
    codebook = np.array([-1.0, 0.0, 0.5, 2.0], "float32")

    def step(values, codebook):
        indices = codebooks.nearest_indices(values, codebook)
        new = codebooks.updated_codebook(values, indices, codebook)
        codes = codebooks.normal_float4(values, group_size=16)
        return indices, codebooks.look_up(indices, new), codes.values

    traced = tf.function(step, jit_compile=jit)
    inputs = tf.constant(values), tf.constant(codebook)
    for got, expected in zip(traced(*inputs), step(*inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_half_precision_is_rounded_in_float32():
    values = tf.constant([1.0, 2.0], "float16")
    indices = codebooks.nearest_indices(values, [1.0, 1.5, 3.0])
    assert array(indices).tolist() == [0, 1]
    new = codebooks.updated_codebook(values, indices, [1.0, 1.5, 3.0])
    assert new.dtype == "float32"
    assert array(new).tolist() == [1.0, 2.0, 3.0]


def test_normal_float_levels_are_quantiles_of_the_normal():
    from scipy.stats import norm

    # The offset leaves the least share outside: mean of 1/32 and 1/30.
    offset = 1 - (1 / 32 + 1 / 30) / 2
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort([*positive, 0.0, *negative]) / positive.max()
    # The published values were computed in float32.
    np.testing.assert_allclose(codebooks.NORMAL_FLOAT4, expected, atol=3e-7)
    with pytest.raises(ValueError, match="read-only"):
        codebooks.NORMAL_FLOAT4[0] = 0.0


def test_normal_float_by_hand():
    values = np.array([[0.0, -8.0, 8.0, 0.0], [0.0, 0.0, 0.5, 0.25]])
    codes = codebooks.normal_float4(values, group_size=2)
    assert array(codes.scales).tolist() == [[8.0, 8.0], [0.0, 0.5]]
    assert array(codes.indices).tolist() == [[7, 0, 15, 7], [7, 7, 15, 12]]
    level = float(np.float32(0.44070982933044434))
    expected = [[0.0, -8.0, 8.0, 0.0], [0.0, 0.0, 0.5, 0.5 * level]]
    assert array(codes.values).tolist() == expected


def test_normal_float_equals_numpy(rng):
    values = rng.normal(size=(5, 3, 128)).astype("float32")
    codes = codebooks.normal_float4(values)
    blocks = values.reshape(5, 3, 2, 64)
    scales = np.abs(blocks).max(axis=-1)
    unit = blocks / scales[..., None]
    indices = np.abs(unit[..., None] - codebooks.NORMAL_FLOAT4).argmin(-1)
    rounded = codebooks.NORMAL_FLOAT4[indices] * scales[..., None]
    assert array(codes.scales).shape == (5, 3, 2)
    np.testing.assert_array_equal(array(codes.scales), scales)
    np.testing.assert_array_equal(array(codes.indices).ravel(), indices.ravel())
    np.testing.assert_allclose(array(codes.values).ravel(), rounded.ravel())


def test_normal_float_twice_is_once(rng):
    values = rng.normal(size=(4, 64)).astype("float32")
    once = codebooks.normal_float4(values, group_size=32).values
    twice = codebooks.normal_float4(once, group_size=32).values
    np.testing.assert_array_equal(array(once), array(twice))


def test_normal_float_refuses_a_group_that_does_not_divide():
    for size in (3, 0, -4):
        with pytest.raises(ValueError, match=rf"group_size={size}.*\(2, 4\)"):
            codebooks.normal_float4(np.ones((2, 4)), group_size=size)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        codebooks.normal_float4(1.0, group_size=1)
