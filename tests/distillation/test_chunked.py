import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation import losses
from kdtf.distillation import targets
from kdtf.distillation.chunked import chunked_map

TOKENS, WIDTH, CLASSES = 7, 4, 11


@pytest.fixture
def data(rng):
    """Hidden states, a kernel, a teacher's logits and weights of tokens."""

    def normal(*shape):
        return tf.constant(rng.normal(size=shape), "float32")

    # The second token is masked.
    weights = [0.3, 0.0, 1.0, 0.5, 2.0, 0.1, 1.5]
    return (
        normal(TOKENS, WIDTH),
        normal(WIDTH, CLASSES),
        normal(TOKENS, CLASSES),
        tf.constant(weights),
    )


def kl(hidden, teacher, kernel):
    return losses.kl_divergence(teacher, hidden @ kernel, temperature=2.0)


def with_gradients(function, hidden, kernel, weights):
    """Returns the weighted sum of values, and its two gradients."""
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel])
        loss = tf.reduce_sum(weights * function(hidden, kernel))
    return [loss, *tape.gradient(loss, [hidden, kernel])]


def assert_equal(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other).max() + 1e-30
        assert np.abs(np.asarray(one) - np.asarray(other)).max() / scale < (
            tolerance
        )


def largest(rows, constants, shared):
    del constants
    return tf.reduce_max(rows @ shared, axis=-1)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_values_and_gradients_by_hand(chunk):
    x, w = tf.constant([[1.0], [2.0], [3.0]]), tf.constant([[1.0, 4.0]])
    upstream = tf.constant([1.0, 10.0, 100.0])
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        values = chunked_map(largest, x, shared=w, chunk=chunk)
        loss = tf.reduce_sum(upstream * values)
    by_x, by_w = tape.gradient(loss, [x, w])
    assert values.numpy().tolist() == [4.0, 8.0, 12.0]
    assert by_x.numpy().tolist() == [[4.0], [40.0], [400.0]]
    # 1 * 1 + 2 * 10 + 3 * 100, for the larger of the two only.
    assert by_w.numpy().tolist() == [[0.0, 321.0]]


def soft(loss):
    return lambda rows, teacher, kernel: loss(
        teacher, rows @ kernel, temperature=2.0
    )


def hard(rows, teacher, kernel):
    return keras.losses.sparse_categorical_crossentropy(
        tf.argmax(teacher, axis=-1), rows @ kernel, from_logits=True
    )


def mixed(rows, teacher, kernel):
    return 0.3 * hard(rows, teacher, kernel) + 0.7 * kl(rows, teacher, kernel)


# Those that treat each row by itself, by its logits alone.
LOSSES = {
    **{name: soft(losses.LOSSES[name]) for name in ("kl", "reverse_kl", "mse")},
    "jensen_shannon": soft(losses.JensenShannonDivergence(beta=0.2)),
    "hard": hard,
    "mixed": mixed,
}
CASES = [
    *((name, 3) for name in LOSSES),
    *(("mixed", chunk) for chunk in (1, TOKENS, TOKENS + 1)),
]


@pytest.mark.parametrize("name, chunk", CASES)
def test_chunks_change_neither_values_nor_gradients(data, name, chunk):
    function = LOSSES[name]
    hidden, kernel, teacher, weights = data

    def whole(hidden, kernel):
        return function(hidden, teacher, kernel)

    def chunked(hidden, kernel):
        return chunked_map(
            function, hidden, shared=kernel, constants=teacher, chunk=chunk
        )

    values = [whole(hidden, kernel)], [chunked(hidden, kernel)]
    assert_equal(values[1], values[0])
    expected = with_gradients(whole, hidden, kernel, weights)
    assert_equal(with_gradients(chunked, hidden, kernel, weights), expected)


@pytest.mark.parametrize("chunk", [1, 3, TOKENS + 1])
def test_targets_of_a_cache_are_cut_with_the_rows(data, chunk):
    hidden, kernel, teacher, weights = data
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(teacher / 2.0), 3)
    rest = tf.math.log(1.0 - tf.reduce_sum(tf.exp(log_probs), axis=-1))
    kept = {"ids": ids, "log_probs": log_probs, "log_rest": rest}

    def function(rows, kept, kernel):
        pair = targets.buckets(kept, rows @ kernel, temperature=2.0)
        return losses.kl_divergence(*pair)

    expected = with_gradients(
        lambda *args: function(args[0], kept, args[1]), hidden, kernel, weights
    )
    found = with_gradients(
        lambda hidden, kernel: chunked_map(
            function, hidden, shared=kernel, constants=kept, chunk=chunk
        ),
        hidden,
        kernel,
        weights,
    )
    assert_equal(found, expected)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_gradients_are_those_of_the_formula_in_float64(data):
    hidden, kernel, teacher, weights = data
    found = with_gradients(
        lambda hidden, kernel: chunked_map(
            kl, hidden, shared=kernel, constants=teacher, chunk=3
        ),
        hidden,
        kernel,
        weights,
    )
    h, k, t, u = (np.asarray(tensor, "float64") for tensor in data)
    p, q = softmax(t / 2), softmax(h @ k / 2)
    value = 4 * np.sum(p * np.log(p / q), axis=-1)
    # d KL / d logits = T (q - p).
    by_logits = 2 * (q - p) * u[:, None]
    assert_equal(found, [(u * value).sum(), by_logits @ k.T, h.T @ by_logits])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_compiled_it_is_the_same(data, shapes, jit_compile):
    hidden, kernel, teacher, weights = data

    def step(hidden, kernel, teacher, weights):
        return with_gradients(
            lambda hidden, kernel: chunked_map(
                kl, hidden, shared=kernel, constants=teacher, chunk=3
            ),
            hidden,
            kernel,
            weights,
        )

    signature = [
        tf.TensorSpec(
            tensor.shape if shapes == "static" else [None] * tensor.shape.rank
        )
        for tensor in data
    ]
    compiled = tf.function(
        step, input_signature=signature, jit_compile=jit_compile
    )
    expected = with_gradients(
        lambda hidden, kernel: kl(hidden, teacher, kernel),
        hidden,
        kernel,
        weights,
    )
    assert_equal(compiled(*data), expected)


def all_operations(graph):
    for operation in graph.get_operations():
        yield operation
        for name in ("cond", "body"):
            if operation.type in ("While", "StatelessWhile"):
                function = operation.get_attr(name).name
                yield from all_operations(graph._get_function(function).graph)


def test_logits_never_exist_at_once(data):
    hidden, kernel, teacher, weights = data
    compiled = tf.function(
        lambda: with_gradients(
            lambda hidden, kernel: chunked_map(
                kl, hidden, shared=kernel, constants=teacher, chunk=3
            ),
            hidden,
            kernel,
            weights,
        )
    )
    made, stored = set(), set()
    for operation in all_operations(compiled.get_concrete_function().graph):
        made |= {tuple(t.shape) for t in operation.outputs if t.shape.rank}
        if operation.type == "TensorListSetItem":
            stored.add(tuple(operation.inputs[2].shape))
    # The teacher's logits are given.
    assert (3, CLASSES) in made
    assert {s for s in made if s[-1] == CLASSES and len(s) == 2} == {
        (3, CLASSES),
        (WIDTH, CLASSES),
        (TOKENS, CLASSES),
    }
    # What outlives a chunk: values and gradients of hidden states.
    assert stored == {(3,), (3, WIDTH)}


def test_classes_masked_with_minus_infinity_have_no_part(data):
    hidden, kernel, teacher, weights = data
    mask = tf.constant([0.0] * (CLASSES - 2) + [-np.inf] * 2)

    def function(rows, teacher, kernel):
        return losses.kl_divergence(teacher + mask, rows @ kernel + mask)

    expected = with_gradients(
        lambda hidden, kernel: kl(2 * hidden, 2 * teacher[:, :-2], kernel) / 4,
        hidden,
        kernel[:, :-2],
        weights,
    )
    loss, by_hidden, by_kernel = with_gradients(
        lambda hidden, kernel: chunked_map(
            function, hidden, shared=kernel, constants=teacher, chunk=3
        ),
        hidden,
        kernel,
        weights,
    )
    assert_equal([loss, by_hidden, by_kernel[:, :-2]], expected)
    assert not np.any(by_kernel[:, -2:])


def test_nan_of_one_row_stays_in_that_row():
    x = tf.constant([[1.0], [np.nan], [3.0], [4.0]])
    values = chunked_map(largest, x, shared=tf.ones([1, 2]), chunk=3)
    assert np.isnan(values).tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_float32_values_and_gradients_of_its_own(dtype):
    @tf.function
    def run(x, scale):
        with tf.GradientTape() as tape:
            tape.watch([x, scale])
            values = chunked_map(
                lambda rows, _, shared: rows[:, 0] * shared,
                x,
                shared=scale,
                chunk=1,
            )
        return values, *tape.gradient(values, [x, scale])

    values, by_x, by_scale = run(tf.ones([1000, 1], dtype), tf.ones([1], dtype))
    assert values.dtype == "float32"
    assert (by_x.dtype, by_scale.dtype) == (dtype, dtype)
    # Added up in bfloat16 it would stop at 256.
    assert float(by_scale[0]) == 1000.0


def test_one_row_and_none():
    w = tf.constant([[1.0, 4.0]])
    one = chunked_map(largest, tf.constant([[2.0]]), shared=w, chunk=3)
    assert one.numpy().tolist() == [8.0]
    with tf.GradientTape() as tape:
        tape.watch(w)
        none = chunked_map(largest, tf.zeros([0, 1]), shared=w, chunk=3)
    assert none.shape == (0,)
    assert tape.gradient(none, w).numpy().tolist() == [[0.0, 0.0]]


def test_structures_and_values_with_more_axes():
    rows = {"a": tf.constant([[1.0], [2.0], [3.0]])}
    constants = (tf.constant([10, 20, 30]),)

    def function(rows, constants, shared):
        number = tf.cast(constants[0], "float32")
        return tf.stack([rows["a"][:, 0] * shared[0], number], axis=-1)

    values = chunked_map(
        function, rows, shared=[tf.constant(2.0)], constants=constants, chunk=2
    )
    assert values.numpy().tolist() == [[2.0, 10.0], [4.0, 20.0], [6.0, 30.0]]


def test_constants_get_no_gradient(data):
    hidden, kernel, teacher, _ = data
    with tf.GradientTape() as tape:
        tape.watch([hidden, teacher])
        values = chunked_map(
            kl, hidden, shared=kernel, constants=teacher, chunk=3
        )
    by_hidden, by_teacher = tape.gradient(values, [hidden, teacher])
    assert np.abs(by_hidden).max() > 0
    assert by_teacher is None


def test_what_the_function_does_not_use_gets_zeros():
    x = tf.ones([3, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = chunked_map(lambda *_: tf.ones([2]), x, chunk=2)
    assert values.numpy().tolist() == [1.0] * 3
    assert tape.gradient(values, x).numpy().tolist() == [[0.0]] * 3


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (ValueError, "chunk=0", {"rows": tf.ones([2, 1]), "chunk": 0}),
        (ValueError, "one length", {"rows": (), "chunk": 1}),
        (TypeError, "`rows`.*int32", {"rows": tf.ones([2], "int32")}),
        (
            TypeError,
            "`shared`.*int32",
            {"rows": tf.ones([2]), "shared": tf.ones([2], "int32")},
        ),
        (
            ValueError,
            r"one length.*\(2,\), \(3,\)",
            {"rows": tf.ones([2]), "constants": tf.ones([3])},
        ),
    ],
)
def test_wrong_arguments_are_refused(error, match, arguments):
    with pytest.raises(error, match=match):
        chunked_map(largest, **{"chunk": 1, **arguments})
