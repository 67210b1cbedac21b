import numpy as np

from kdtf.quantization.kmeans import SortedValues
from kdtf.quantization.kmeans import linear_start
from kdtf.quantization.kmeans import lloyd


def data_of(*values):
    return SortedValues(np.array(values, "float32"))


def test_bounds_give_the_middle_to_the_lower_entry():
    data = data_of(0.0, 1.0, 2.0, 3.0)
    entries = np.array([0.0, 2.0], "float32")
    assert data.bounds(entries).tolist() == [0, 2, 4]


def test_costs_are_squared_distances(rng):
    values = np.sort(rng.normal(size=50)).astype("float32")
    data = SortedValues(values)
    for first, last, entry in [(0, 50, 0.0), (3, 20, 1.5), (7, 7, 9.0)]:
        expected = ((values[first:last].astype(float) - entry) ** 2).sum()
        got = data.cost(first, last, entry)
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_draws_go_by_squared_distance():
    data = data_of(1.0, 2.0, 3.0, 9.0, 10.0, 12.0)
    entries = np.array([1.0, 10.0], "float32")
    rng = np.random.default_rng(0)
    drawn = [data.draw(entries, rng) for _ in range(4000)]
    # Squared distances 0, 1, 4, 1, 0, 4, of 10.
    shares = {value: drawn.count(value) / 4000 for value in set(drawn)}
    assert set(shares) == {2.0, 3.0, 9.0, 12.0}
    # Four standard deviations of a share of 4000 draws.
    for value, expected in {2.0: 0.1, 3.0: 0.4, 9.0: 0.1, 12.0: 0.4}.items():
        assert abs(shares[value] - expected) < 0.032


def test_draw_falls_back_to_any_value_where_entries_are_all_values():
    data = data_of(1.0, 1.0)
    assert data.draw(np.array([1.0], "float32"), np.random.default_rng(0)) == 1


def test_lloyd_moves_by_means_until_nothing_changes():
    data = data_of(0.0, 1.0, 2.0, 9.0)
    start = np.array([0.0, 1.0], "float32")
    once = lloyd(data, start, num_iterations=1)
    assert once.tolist() == [0.0, 4.0]
    assert lloyd(data, start, num_iterations=99).tolist() == [1.0, 9.0]
    assert lloyd(data, start, num_iterations=0).tolist() == [0.0, 1.0]
    assert start.tolist() == [0.0, 1.0]


def test_lloyd_leaves_the_zero_where_it_is():
    data = data_of(-1.0, 0.25, 4.0, 6.0)
    start = np.array([-2.0, 0.0, 3.0], "float32")
    got = lloyd(data, start, num_iterations=9, keep_zero=True)
    assert got.tolist() == [-1.0, 0.0, 5.0]
    got = lloyd(data, start, num_iterations=9)
    assert got.tolist() == [-1.0, 0.25, 5.0]


def test_unused_entries_go_where_the_error_is_greatest():
    # The run of 3 costs 0 + 0 + 9 below its mean of 6 and 9 above; the first
    # of equal sides is halved. The run of -1 costs nothing.
    data = data_of(-1.0, 3.0, 6.0, 9.0)
    start = np.array([-1.0, 3.0, 99.0], "float32")
    got = lloyd(data, start, num_iterations=1)
    assert got.tolist() == [-1.0, 3.0, 6.0]
    got = lloyd(data, start, num_iterations=9)
    assert got.tolist() == [-1.0, 3.0, 7.5]


def test_equal_entries_are_all_put_to_use():
    data = data_of(*[0.5] * 100, 1.0, 2.0, 3.0)
    start = np.array([0.5, 0.5, 0.5, 0.5], "float32")
    got = lloyd(data, start, num_iterations=99)
    assert got.tolist() == [0.5, 1.0, 2.0, 3.0]


def test_the_zeros_run_is_halved_too_but_the_zero_stays():
    data = data_of(-2.0, -1.0, 1.0, 10.0)
    start = np.array([0.0, 10.0, 99.0], "float32")
    got = lloyd(data, start, num_iterations=1, keep_zero=True)
    assert got.tolist() == [-1.5, 0.0, 10.0]


def test_lloyd_equals_scikit_learn(rng):
    from sklearn.cluster import KMeans

    values = np.sort(rng.standard_t(4, size=3000)).astype("float32")
    data = SortedValues(values)
    start = linear_start(data, 8, False, 0)
    oracle = KMeans(8, init=start[:, None], n_init=1, max_iter=500, tol=0)
    oracle.fit(values[:, None])
    got = lloyd(data, start, num_iterations=500)
    # Theirs sums in float32.
    expected = np.sort(oracle.cluster_centers_[:, 0])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_means_of_equal_values_are_exact():
    # 0.1 has no exact sum, and a large value before it spoils the difference.
    data = SortedValues(np.array([-1e9] + [0.1] * 1000, "float32"))
    entries = np.array([-1e9, 0.0], "float32")
    means = data.means(data.bounds(entries), entries)
    assert means.tolist() == np.array([-1e9, 0.1], "float32").tolist()
