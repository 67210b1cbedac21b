"""Pruning of `tf_keras` models: when, how much, which, and what is refused."""

import numpy as np
import pytest
import tf_keras
from tf_keras import layers

import kdtf
from kdtf import schedules
from kdtf.pruning.tfmot_models import TfmotSchedule
from kdtf.pruning.tfmot_models import check_supported
from kdtf.pruning.tfmot_models import prune
from kdtf.transforms import tfmot_models

pytestmark = [pytest.mark.slow, pytest.mark.tfmot]

RAMP = schedules.PolynomialSchedule(
    initial=0.25, final=0.75, begin_step=1, end_step=7
)


def one_shot(final=0.75):
    return schedules.OneShotSchedule(final=final)


def mlp():
    return tf_keras.Sequential(
        [
            layers.InputLayer((8,)),
            layers.Dense(16, "tanh", name="hidden"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(4, name="head"),
        ]
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(32, 8)).astype("float32")
    return x, rng.integers(0, 4, size=32).astype("int32")


def kernel(model, index=0):
    return model.layers[index].get_weights()[0]


def sparsity(model, index=0):
    return float((kernel(model, index) == 0).mean())


def train(model, data, steps, **kwargs):
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.1), loss)
    x, y = data
    return model.fit(x[:steps], y[:steps], batch_size=1, verbose=0, **kwargs)


def test_one_shot_gives_the_smallest_weights_as_zeros_at_once():
    model = mlp()
    before = kernel(model).copy()
    after = kernel(prune(model, schedule=one_shot()))
    kept = np.sort(np.abs(before).ravel())[-32:].min()
    np.testing.assert_array_equal(
        after, np.where(np.abs(before) >= kept, before, 0)
    )


def test_fit_holds_the_zeros_and_trains_the_rest(data):
    model = prune(mlp(), schedule=one_shot())
    before = kernel(model).copy()
    train(model, data, 20, epochs=2)
    after = kernel(model)
    np.testing.assert_array_equal(after == 0, before == 0)
    assert (after != before)[before != 0].all()
    assert sparsity(model) == sparsity(model, 2) == 0.75


@pytest.mark.parametrize("user_gives", ["nothing", "list", "single", "own"])
def test_fit_needs_no_callback_and_bears_any(user_gives, data):
    seen = []
    note = tf_keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.append(1)
    )
    model = prune(mlp(), schedule=RAMP, frequency=2)
    update = tfmot_models.training_callbacks(model)
    callbacks = {
        "nothing": None,
        "list": [note],
        "single": note,
        "own": [*update, note],
    }[user_gives]
    train(model, data, 7, callbacks=callbacks)
    assert sparsity(model) == sparsity(model, 2) == 0.75
    assert len(seen) == (user_gives != "nothing")


def test_callbacks_may_stand_in_place_or_in_a_list_of_tf_keras(data):
    x, y = data
    model = prune(mlp(), schedule=RAMP, frequency=2)
    model.compile("sgd", "mse")
    held = tf_keras.callbacks.CallbackList([], model=model)
    model.fit(x, x[:, :4], 8, 1, 0, held)
    model.fit(x, x[:, :4], 8, 1, 0, [])
    assert sparsity(model) == 0.75


@pytest.mark.slow
def test_ramp_starts_where_it_says_and_ends_on_a_step_between_updates(data):
    # 1, 3, 5, 7 are on the turn for a frequency of 2; the end, 7, is not for
    # a frequency of 4.
    for frequency in (2, 4):
        model = prune(mlp(), schedule=RAMP, frequency=frequency)
        assert sparsity(model) == 0.25
        train(model, data, 6)
        assert 0.25 < sparsity(model) < 0.75
        train(model, data, 1)
        assert sparsity(model) == 0.75


def test_schedules_of_tfmot_are_taken_as_they_are(data):
    tfmot = tfmot_models.load_tfmot()
    constant = tfmot.sparsity.keras.ConstantSparsity(0.5, 2, frequency=1)
    model = prune(mlp(), schedule=constant)
    assert model.layers[0].pruning_schedule is constant
    assert sparsity(model) == 0
    train(model, data, 3)
    assert sparsity(model) == 0.5
    nan = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.8, 10, 10)
    with pytest.raises(ValueError, match="end_step"):
        prune(mlp(), schedule=nan)


def test_two_of_four_along_the_inputs_stay(data):
    model = mlp()
    rows = np.array([1, -4, 3, 2, 0.1, 0.2, -0.4, 0.3], "float32")
    weights = np.tile(rows[:, None], (1, 16))
    model.layers[0].set_weights([weights, np.zeros(16)])
    model = prune(model, schedule=one_shot(0.5), structure="2:4")
    left = np.array([0, -4, 3, 0, 0, 0, -0.4, 0.3], "float32")
    np.testing.assert_array_equal(
        kernel(model), np.tile(left[:, None], (1, 16))
    )
    train(model, data, 5)
    np.testing.assert_array_equal(kernel(model)[:, 0] != 0, left != 0)


def test_one_of_four_keeps_one(data):
    model = prune(mlp(), schedule=one_shot(0.75), structure="1:4")
    train(model, data, 3)
    groups = (kernel(model) != 0).reshape(2, 4, 16)
    assert (groups.sum(axis=1) == 1).all()


@pytest.mark.slow
def test_blocks_go_together(data):
    model = prune(mlp(), schedule=one_shot(0.5), structure=(4, 1))
    for _ in range(2):
        blocks = (kernel(model) != 0).reshape(2, 4, 16)
        assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
        assert sparsity(model) == 0.5
        train(model, data, 3)


@pytest.mark.parametrize(
    "select", ["head", ["he*"], lambda layer: layer.name == "head"]
)
def test_only_selected_layers_are_pruned(select):
    model = prune(mlp(), schedule=one_shot(), select=select)
    assert sparsity(model) == 0 and sparsity(model, 2) == 0.75
    assert [layer.name for layer in model.layers][:2] == ["hidden", "norm"]


def test_a_layer_object_is_selected_also_one_left_alone_by_default():
    embedding = layers.Embedding(10, 4, name="tokens")
    model = tf_keras.Sequential(
        [layers.InputLayer((5,)), embedding, layers.Dense(4)]
    )
    assert sparsity(prune(model, schedule=one_shot())) == 0
    other = tf_keras.models.clone_model(model)
    pruned = prune(other, schedule=one_shot(), select=other.layers[0])
    assert sparsity(pruned) == 0.75 and sparsity(pruned, 1) == 0


def test_layers_unknown_to_tfmot_and_frozen_ones_are_left_alone(data):
    x, _ = data
    inputs = layers.Input((8,))
    hidden = layers.EinsumDense("ab,bc->ac", 8, name="unknown")(inputs)
    nested = tf_keras.Sequential(
        [layers.InputLayer((8,)), layers.Dense(8, name="inner")]
    )
    hidden = nested(hidden)[:, 1:] * 2.0
    frozen = layers.Dense(4, trainable=False, name="frozen")
    model = tf_keras.Model(inputs, frozen(hidden))
    before = model.get_weights()
    pruned = prune(model, schedule=one_shot())
    pruned.compile("sgd", "mse")
    pruned.fit(x, x[:, :4], verbose=0)
    (wrapper,) = tfmot_models.wrappers(pruned)[0]
    assert (wrapper.get_weights()[0] == 0).mean() == 0.75
    after = pruned.get_layer("frozen").get_weights()[0]
    np.testing.assert_array_equal(after, before[-2])


@pytest.mark.slow
def test_recurrent_and_attention_kernels_are_pruned(rng):
    inputs = layers.Input((6, 8))
    hidden = layers.LSTM(8, return_sequences=True)(inputs)
    model = tf_keras.Model(
        inputs, layers.MultiHeadAttention(2, 4)(hidden, hidden)
    )
    pruned = prune(model, schedule=one_shot(0.5))
    pruned.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 8)).astype("float32")
    pruned.fit(x, x, verbose=0)
    for wrapper in tfmot_models.wrappers(pruned)[0]:
        for weight in wrapper.layer.get_prunable_weights():
            assert (weight.numpy() == 0).mean() == 0.5


def test_a_model_built_by_its_first_batch_is_pruned():
    model = tf_keras.Sequential([layers.Dense(4, use_bias=False)])
    model(np.zeros((1, 4), "float32"))
    pruned = prune(model, schedule=one_shot())
    assert sparsity(pruned) == sparsity(tfmot_models.strip(pruned)) == 0.75


@pytest.mark.slow
def test_a_saved_model_goes_on_where_it_stopped(data, tmp_path):
    tfmot = tfmot_models.load_tfmot()
    model = prune(mlp(), schedule=RAMP, frequency=4)
    train(model, data, 6)
    model.save(tmp_path / "pruned.keras")
    with tfmot.sparsity.keras.prune_scope():
        loaded = tf_keras.models.load_model(tmp_path / "pruned.keras")
    assert loaded.layers[0].pruning_schedule == TfmotSchedule(
        schedule=RAMP, frequency=4
    )
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    update = tfmot_models.training_callbacks(loaded)
    train(loaded, data, 1, callbacks=update)
    assert sparsity(loaded) == 0.75


def test_a_distiller_prunes_its_student_without_a_callback(data):
    x, y = data
    student = prune(mlp(), schedule=one_shot())
    zeros = kernel(student) == 0
    distiller = kdtf.Distiller(mlp(), student)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss)
    distiller.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(kernel(student) == 0, zeros)


def test_a_loop_without_the_callback_is_still_refused_by_tfmot(data):
    x, _ = data
    model = prune(mlp(), schedule=one_shot())
    model.compile("sgd", "mse")
    with pytest.raises(Exception, match="UpdatePruningStep"):
        model.train_on_batch(x, x[:, :4])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_public_verbs_in_a_compiled_loop_and_mixed_precision(policy, data):
    layers_ = [
        layers.InputLayer((8,)),
        layers.Dense(16, dtype=policy),
        # The head stays in float32, as Keras advises.
        layers.Dense(4, dtype="float32"),
    ]
    model = kdtf.prune(tf_keras.Sequential(layers_), structure="2:4")
    assert sparsity(model) == 0.5
    x, _ = data
    model.compile("adam", "mse", steps_per_execution=2)
    model.fit(x, x[:, :4], batch_size=4, verbose=0)
    plain = kdtf.strip(model)
    assert type(plain.layers[0]) is layers.Dense
    assert sparsity(plain) == sparsity(plain, 1) == 0.5
    with pytest.raises(ValueError, match="criterion='wanda'"):
        kdtf.prune(plain, 0.5, criterion="wanda")


def test_pruning_twice_is_refused_until_stripped():
    model = prune(mlp(), schedule=one_shot(0.5))
    with pytest.raises(ValueError, match=r"already pruned.*kdtf\.strip"):
        prune(model, schedule=one_shot())
    again = prune(tfmot_models.strip(model), schedule=one_shot())
    assert sparsity(again) == 0.75


@pytest.mark.parametrize(
    "arguments",
    [{"criterion": "wanda"}, {"allocation": "erk"}, {"data": np.zeros((2, 8))}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_only_keras_3_can_do_is_refused(arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"tfmot, which.*Received: {name}="):
        check_supported(**{"data": None, **arguments})


@pytest.mark.parametrize("structure", ["units", "per_output"])
def test_structures_unknown_to_tfmot_are_refused(structure):
    with pytest.raises(ValueError, match=f"tfmot.*structure='{structure}'"):
        prune(mlp(), schedule=one_shot(), structure=structure)


def test_structures_that_tfmot_would_get_wrong_are_refused():
    filters = tf_keras.Sequential([layers.Conv1D(4, 3, input_shape=(8, 4))])
    for structure, rule in (((2, 2), "2 dimensions"), ("2:4", "2 or 4 dim")):
        with pytest.raises(ValueError, match=f"{rule}.*'conv1d"):
            prune(filters, schedule=one_shot(0.5), structure=structure)
    # 16 and 4 outputs are no multiple of 3; 8 inputs are a single block of 8.
    for structure in ((1, 3), (8, 1)):
        with pytest.raises(ValueError, match=r"whole ones.*\(8, 16\)"):
            prune(mlp(), schedule=one_shot(), structure=structure)
    with pytest.raises(ValueError, match=r"'2:4' at once.*0\.25 to 0\.75"):
        prune(mlp(), schedule=RAMP, structure="2:4")


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="frequency=0"):
        prune(mlp(), schedule=RAMP, frequency=0)
    with pytest.raises(ValueError, match=r"from 0\.0 to 80"):
        prune(mlp(), schedule=one_shot(80.0))
    with pytest.raises(TypeError, match="schedule="):
        prune(mlp(), schedule="cubic")


def test_a_refused_model_is_left_as_it_was(data):
    x, _ = data
    model = mlp()
    before = model(x).numpy()
    with pytest.raises(ValueError, match="'norm', which has none"):
        prune(model, schedule=one_shot(), select=["head", "norm"])
    np.testing.assert_array_equal(model(x).numpy(), before)
