"""What `prune` does to a model, and what it refuses."""

import keras
import numpy as np
import pytest

import kdtf
from kdtf.pruning import Block
from kdtf.pruning import Magnitude
from kdtf.pruning import Taylor
from kdtf.transforms import attach


def mlp(*, width=20, name="mlp"):
    layers = [
        keras.Input((10,)),
        keras.layers.Dense(width, "relu", name="hidden"),
        keras.layers.Dense(4, name="head"),
    ]
    return keras.Sequential(layers, name=name)


def zeros(model):
    return {
        "/".join(w.path.split("/")[-2:]): float(np.mean(np.asarray(w) == 0))
        for w in model.weights
        if len(w.shape) > 1
    }


@pytest.fixture
def data(rng):
    x = rng.normal(size=(64, 10)).astype("float32")
    return x, rng.integers(0, 4, 64).astype("int32")


def compiled(model, optimizer="adam", **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **options)
    return model


def test_a_number_prunes_at_once_by_magnitude():
    model = mlp()
    before = [np.array(w) for w in model.get_weights()]
    assert kdtf.prune(model, 0.75) is model
    after = model.get_weights()
    for old, new in zip(before[::2], after[::2], strict=True):
        threshold = np.sort(np.abs(old).ravel())[-old.size // 4]
        expected = np.where(np.abs(old) >= threshold, old, 0)
        np.testing.assert_array_equal(new, expected)
    for old, new in zip(before[1::2], after[1::2], strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_model_stays_what_it_was(data):
    model = compiled(mlp())
    names = [w.path for w in model.weights]
    config = model.to_json()
    kdtf.prune(model, 0.5)
    assert [w.path for w in model.weights] == names
    assert model.to_json() == config
    assert model.count_params() == 10 * 20 + 20 + 20 * 4 + 4
    model.fit(*data, verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_zeros_stay_through_any_optimizer(optimizer, data):
    model = compiled(kdtf.prune(mlp(), 0.8), optimizer)
    mask = model.get_weights()[0] != 0
    model.fit(*data, batch_size=8, epochs=3, verbose=0)
    after = model.get_weights()[0]
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.8}
    np.testing.assert_array_equal(after != 0, mask)


def test_a_ramp_follows_its_formula_step_by_step(data):
    schedule = kdtf.PolynomialSchedule(
        initial=0.2, final=0.8, begin_step=4, end_step=17
    )
    model = compiled(kdtf.prune(mlp(), schedule=schedule, frequency=3))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(zeros(self.model)["hidden/kernel"])

    model.fit(*data, batch_size=8, epochs=3, verbose=0, callbacks=[Watch()])
    expected, current = [], 0.0
    for step in range(1, 25):
        if step in (4, 7, 10, 13, 16, 17):
            left = (1 - (step - 4) / 13) ** 3
            current = round(200 * (0.8 - 0.6 * left)) / 200
        expected.append(current)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_steps_per_execution_misses_no_due_step(data):
    schedule = kdtf.PolynomialSchedule(final=0.8, begin_step=1, end_step=7)
    runs = []
    for steps in (1, 8):
        keras.utils.set_random_seed(1)
        model = kdtf.prune(mlp(), schedule=schedule, frequency=2)
        compiled(model, "sgd", steps_per_execution=steps)
        model.fit(*data, batch_size=8, verbose=0, shuffle=False)
        runs.append(model.get_weights())
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert np.mean(runs[1][0] == 0) == 0.8


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"run_eagerly": True}]
)
def test_compiled_by_xla_and_eager_steps_agree_with_plain(options, data):
    schedule = kdtf.CosineSchedule(final=0.7, end_step=6)
    runs = []
    for chosen in ({}, options):
        keras.utils.set_random_seed(1)
        model = kdtf.prune(mlp(), schedule=schedule, frequency=2)
        compiled(model, "sgd", **chosen)
        model.fit(*data, batch_size=8, verbose=0, shuffle=False)
        runs.append(model.get_weights())
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_custom_loop_prunes_too(data):
    import tensorflow as tf

    model = kdtf.prune(
        mlp(), schedule=kdtf.PolynomialSchedule(final=0.8, end_step=5)
    )
    optimizer = keras.optimizers.Adam()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )

    for _ in range(5):
        step(*data)
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.8}


def test_two_optimizers_share_one_count(data):
    """Each has its own compiled step, over kernels of its own."""
    import tensorflow as tf

    schedule = kdtf.PolynomialSchedule(final=0.8, end_step=8)
    model = kdtf.prune(mlp(), schedule=schedule, frequency=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def stepper(name):
        variables = model.get_layer(name).trainable_variables
        optimizer = keras.optimizers.Adam()
        optimizer.build(variables)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            optimizer.apply(tape.gradient(value, variables), variables)

        return step

    first, second = stepper("hidden"), stepper("head")
    for _ in range(4):
        first(*data)
    for _ in range(4):
        second(*data)
    assert int(attach.recall(model, "kdtf_pruning").groups[0].step) == 8
    assert zeros(model)["head/kernel"] == 0.8


def test_masks_of_a_frozen_layer_wait(data):
    schedule = kdtf.PolynomialSchedule(final=0.8, end_step=8)
    model = kdtf.prune(mlp(), schedule=schedule, frequency=1)
    model.get_layer("head").trainable = False
    compiled(model).fit(*data, batch_size=8, verbose=0)
    before = model.predict(data[0], verbose=0)
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.0}
    kdtf.strip(model)
    np.testing.assert_array_equal(model.predict(data[0], verbose=0), before)


def test_a_sparser_model_keeps_the_zeros_that_are_asked_for(data):
    model = kdtf.strip(kdtf.prune(mlp(), 0.8))
    kdtf.prune(model, 0.5)
    for mask in attach.recall(model, "kdtf_pruning").groups[0].masks:
        assert np.mean(np.asarray(mask)) == 0.5
    compiled(model).fit(*data, batch_size=8, epochs=2, verbose=0)
    # Of the zeros that may learn again some have no gradient.
    assert all(0.5 <= share < 0.8 for share in zeros(model).values())


def test_rules_alone_prune(data):
    model = kdtf.prune(mlp(), 0.0, allocation={"hidden": 0.5})
    assert zeros(model) == {"hidden/kernel": 0.5, "head/kernel": 0.0}


def test_output_units_stay_unless_they_are_selected(data):
    model = kdtf.prune(mlp(), 0.5, criterion="apoz", data=data[0])
    assert zeros(model) == {"hidden/kernel": 0.5, "head/kernel": 0.0}
    notes = {k.path: k.note for k in kdtf.sparsity_report(model).kernels}
    assert "the model's outputs" in notes["head/kernel"]
    model = kdtf.prune(mlp(), 0.5, structure="units", select="head")
    assert zeros(model)["head/kernel"] == 0.5


def test_scores_and_data_with_nan_are_refused(data):
    with pytest.raises(ValueError, match="nan or infinity for 'hidden/kernel'"):
        kdtf.prune(mlp(), 0.5, criterion=lambda w: w * float("nan"))
    x = data[0].copy()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"`data` must be finite.*\(32, 10\)"):
        kdtf.prune(mlp(), 0.5, criterion="wanda", data=x)


def test_numbers_of_numpy_and_tensors_are_taken(data):
    import tensorflow as tf

    model = kdtf.prune(mlp(), np.float32(0.5), frequency=np.int64(2))
    assert zeros(model)["hidden/kernel"] == 0.5
    kdtf.prune(mlp(), 0.5, criterion="wanda", data=tf.constant(data[0]))


def test_mixed_precision_and_loss_scaling(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = kdtf.prune(mlp(), 0.75)
    finally:
        keras.config.set_dtype_policy("float32")
    compiled(model).fit(*data, batch_size=8, epochs=2, verbose=0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert zeros(model) == {"hidden/kernel": 0.75, "head/kernel": 0.75}
    assert model.weights[0].dtype == "float32"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(dtype):
    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(4, dtype=dtype)]
    )
    kdtf.prune(model, 0.75)
    value = np.asarray(model.weights[0])
    assert model.weights[0].dtype == dtype
    # Ties between rounded weights may keep one more.
    assert 28 <= (value.astype("float32") == 0).sum() <= 30


def test_a_step_compiled_before_pruning_is_not_used_again(data):
    model = compiled(mlp())
    model.fit(*data, verbose=0)
    kdtf.prune(model, 0.75)
    model.fit(*data, verbose=0, epochs=2)
    assert zeros(model) == {"hidden/kernel": 0.75, "head/kernel": 0.75}
    kdtf.strip(model)
    model.fit(*data, verbose=0)
    assert zeros(model) == {"hidden/kernel": 0.0, "head/kernel": 0.0}


def test_the_users_own_constraint_is_kept(data):
    layer = keras.layers.Dense(
        20, kernel_constraint=keras.constraints.NonNeg(), name="hidden"
    )
    model = keras.Sequential(
        [keras.Input((10,)), layer, keras.layers.Dense(4, name="head")]
    )
    own = layer.kernel.constraint
    compiled(kdtf.prune(model, 0.6)).fit(*data, epochs=2, verbose=0)
    kernel = np.asarray(layer.kernel)
    assert kernel.min() == 0.0
    assert np.mean(kernel == 0) >= 0.6
    kdtf.strip(model)
    assert layer.kernel.constraint is own


def test_nan_does_not_pass_through_a_mask():
    model = kdtf.prune(mlp(), 0.75)
    kernel = model.get_layer("hidden").kernel
    mask = np.asarray(kernel) != 0
    kernel.assign(np.full(kernel.shape, np.nan))
    kdtf.strip(model)
    np.testing.assert_array_equal(np.isnan(np.asarray(kernel)), mask)


def test_rules_select_and_allocate(data):
    model = kdtf.prune(
        mlp(), 0.8, select=["hidden", "head"], allocation={"head": 0.25}
    )
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.25}
    model = kdtf.prune(mlp(), 0.8, select="head")
    assert zeros(model) == {"hidden/kernel": 0.0, "head/kernel": 0.8}
    compiled(model).fit(*data, verbose=0)
    assert zeros(model) == {"hidden/kernel": 0.0, "head/kernel": 0.8}


def test_kernels_may_be_pruned_differently_by_two_calls(data):
    model = kdtf.prune(mlp(), structure="2:4", select="head")
    kdtf.prune(
        model,
        schedule=kdtf.PolynomialSchedule(final=0.9, end_step=4),
        select="hidden",
    )
    compiled(model).fit(*data, batch_size=8, verbose=0)
    assert zeros(model) == {"hidden/kernel": 0.9, "head/kernel": 0.5}
    groups = np.asarray(model.get_layer("head").kernel).reshape(5, 4, 4)
    assert ((groups != 0).sum(axis=1) == 2).all()


def test_blocks_and_global_allocation_hold_during_training(data):
    model = kdtf.prune(mlp(), 0.5, structure=(2, 1), allocation="global")
    compiled(model).fit(*data, epochs=2, verbose=0)
    hidden, head = model.get_weights()[::2]
    assert (hidden == 0).sum() + (head == 0).sum() == 140
    for kernel in (hidden, head):
        pairs = kernel.reshape(-1, 2, kernel.shape[1]) == 0
        np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])


@pytest.mark.parametrize(
    "criterion", ["wanda", "taylor", "snip", "movement", "mean_activation"]
)
def test_measured_criteria_follow_the_schedule_in_fit(criterion, data):
    model = compiled(mlp())
    schedule = kdtf.PolynomialSchedule(final=0.5, end_step=6)
    kdtf.prune(
        model,
        schedule=schedule,
        criterion=criterion,
        data=(data[0][:40], data[1][:40]),
        frequency=2,
    )
    model.fit(*data, batch_size=8, verbose=0)
    # Units of the last layer are the classes.
    head = 0.0 if criterion == "mean_activation" else 0.5
    assert zeros(model) == {"hidden/kernel": 0.5, "head/kernel": head}


def test_a_mask_of_wanda_is_measured_on_the_weights_of_its_step(data):
    """The update at a step equals one asked for by hand right there."""
    x = data[0][:40]
    jump = kdtf.OneShotSchedule(final=0.5, step=3)
    keras.utils.set_random_seed(1)
    model = compiled(
        kdtf.prune(mlp(), schedule=jump, criterion="wanda", data=x), "sgd"
    )
    model.fit(*data, batch_size=8, steps_per_epoch=3, verbose=0, shuffle=False)
    keras.utils.set_random_seed(1)
    plain = compiled(mlp(), "sgd")
    plain.fit(*data, batch_size=8, steps_per_epoch=3, verbose=0, shuffle=False)
    kdtf.prune(plain, 0.5, criterion="wanda", data=x)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(a == 0, b == 0)


def test_a_pruned_unit_does_not_come_back_by_its_bias():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4, "relu", name="units")]
    )
    # The second unit is silent on the data, but only until it is pruned.
    kernel = np.array([[1.0, -9.0, 1.0, 1.0], [1.0, -9.0, 1.0, 1.0]])
    model.set_weights([kernel, np.array([0.0, 5.0, 0.0, 0.0])])
    compiled(model, keras.optimizers.SGD(0.0))
    x = np.ones((8, 2), "float32")
    schedule = kdtf.PolynomialSchedule(
        initial=0.25, final=0.5, end_step=4, power=1.0
    )
    kdtf.prune(
        model,
        schedule=schedule,
        criterion="apoz",
        data=x,
        frequency=1,
        select="units",
    )
    model.fit(x, np.zeros(8), batch_size=2, verbose=0)
    alive = (model.get_weights()[0] != 0).any(axis=0)
    assert alive.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "criterion", ["wanda", "apoz", "mean_activation", "taylor", "snip"]
)
def test_what_a_measuring_criterion_has_pruned_stays_so(criterion, data):
    model = compiled(mlp(), keras.optimizers.Adam(0.05))
    kdtf.prune(
        model,
        schedule=kdtf.PolynomialSchedule(final=0.6, end_step=16),
        criterion=criterion,
        data=data,
        frequency=2,
    )
    before = [np.ones_like(w, bool) for w in model.get_weights()[::2]]

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for i, weight in enumerate(self.model.get_weights()[::2]):
                assert not ((weight != 0) & ~before[i]).any()
                before[i] = weight != 0

    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[Watch()])
    # Exactly, although silent units and dead weights score the same.
    assert before[0].sum() == 80


def test_structure_defaults_to_the_criterions_own(data):
    model = kdtf.prune(mlp(), 0.8, criterion="wanda", data=data[0])
    hidden = model.get_weights()[0]
    assert ((hidden == 0).sum(axis=0) == 8).all()
    model = compiled(mlp())
    kdtf.prune(model, 0.5, criterion="mean_activation", data=data[0])
    silent = (model.get_weights()[0] == 0).all(axis=0)
    assert silent.sum() == 10


def test_nothing_is_left_after_strip(tmp_path, data):
    model = compiled(kdtf.prune(mlp(), 0.75))
    model.fit(*data, verbose=0)
    weights = model.get_weights()
    assert kdtf.strip(model) is model
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [k for k in vars(model) if "kdtf" in k]
    assert all(v.constraint is None for v in model.weights)
    assert kdtf.strip(model) is model
    kdtf.prune(model, 0.9)
    assert zeros(model) == {"hidden/kernel": 0.9, "head/kernel": 0.9}


def test_strip_makes_zeros_of_what_a_moving_average_filled(data):
    model = kdtf.prune(
        mlp(), schedule=kdtf.PolynomialSchedule(final=0.8, end_step=8)
    )
    compiled(model, keras.optimizers.Adam(use_ema=True, ema_momentum=0.9))
    model.fit(*data, batch_size=8, verbose=0)
    assert zeros(model)["hidden/kernel"] < 0.5
    kdtf.strip(model)
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.8}


@pytest.mark.slow
def test_a_saved_model_loads_in_plain_keras(tmp_path, data):
    import subprocess
    import sys

    model = compiled(kdtf.prune(mlp(), 0.75))
    model.fit(*data, verbose=0)
    path = tmp_path / "pruned.keras"
    model.save(path)
    code = (
        "import keras, sys; model = keras.saving.load_model(sys.argv[1]); "
        "assert 'kdtf' not in sys.modules; "
        "print([int((w == 0).sum()) for w in model.get_weights()[::2]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[150, 60]", done.stderr


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_step_and_masks_come_back_with_the_weights(suffix, tmp_path, data):
    def fresh():
        keras.utils.set_random_seed(5)
        model = compiled(mlp(), "sgd")
        schedule = kdtf.PolynomialSchedule(final=0.8, end_step=12)
        return kdtf.prune(
            model,
            schedule=schedule,
            criterion="movement",
            data=data,
            frequency=3,
        )

    model = fresh()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(*data, **options)
    path = tmp_path / f"half{suffix}"
    save = model.save if suffix == ".keras" else model.save_weights
    save(path)
    model.fit(*data, **options)
    resumed = fresh()
    resumed.load_weights(path)
    resumed.fit(*data, **options)
    for a, b in zip(model.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert zeros(resumed) == {"hidden/kernel": 0.8, "head/kernel": 0.8}


def test_dense_weights_load_into_a_pruned_model(tmp_path):
    path = tmp_path / "dense.weights.h5"
    dense = mlp()
    dense.save_weights(path)
    model = kdtf.prune(mlp(), 0.5)
    model.load_weights(path)
    np.testing.assert_array_equal(
        model.get_weights()[0], dense.get_weights()[0]
    )


def test_masks_of_another_model_are_refused(tmp_path):
    path = tmp_path / "head.weights.h5"
    kdtf.prune(mlp(), 0.5, select="head").save_weights(path)
    with pytest.raises(ValueError, match="masks must be of the same kernels"):
        kdtf.prune(mlp(), 0.5).load_weights(path)


def test_tfmot_schedules_are_taken_as_they_are(data):
    from kdtf.transforms.tfmot_models import load_tfmot

    tfmot = load_tfmot()
    decay = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.8, 2, 8, frequency=3)
    model = compiled(kdtf.prune(mlp(), schedule=decay))
    assert zeros(model)["hidden/kernel"] == 0.0
    model.fit(*data, batch_size=8, verbose=0)
    assert zeros(model) == {"hidden/kernel": 0.8, "head/kernel": 0.8}


@pytest.mark.parametrize(
    "sparsity", [1.0, -0.1, 80, "high", True, float("nan")]
)
def test_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"`sparsity`.*\[0, 1\)"):
        kdtf.prune(mlp(), sparsity)


def test_bad_schedules_are_refused():
    model = mlp()
    with pytest.raises(ValueError, match="either `sparsity` or `schedule`"):
        kdtf.prune(model)
    with pytest.raises(ValueError, match="either `sparsity` or `schedule`"):
        kdtf.prune(model, 0.5, schedule=kdtf.OneShotSchedule(final=0.5))
    with pytest.raises(ValueError, match=r"`schedule` must stay in \[0, 1\)"):
        kdtf.prune(model, schedule=kdtf.OneShotSchedule(final=1.0))
    with pytest.raises(TypeError, match="`schedule` must be a number or"):
        kdtf.prune(model, schedule="slow")
    with pytest.raises(ValueError, match="`frequency`"):
        kdtf.prune(model, 0.5, frequency=0)


def test_nm_and_another_sparsity_contradict():
    with pytest.raises(ValueError, match="'2:4' makes a fraction of 0.5.*0.8"):
        kdtf.prune(mlp(), 0.8, structure="2:4")
    kdtf.prune(mlp(), 0.5, structure="2:4")
    with pytest.raises(ValueError, match="N=4, M=2"):
        kdtf.prune(mlp(), structure="4:2")


def test_pruning_twice_is_refused():
    model = kdtf.prune(mlp(), 0.5)
    with pytest.raises(
        ValueError, match=r"already pruned.*kdtf.strip\(model\)"
    ):
        kdtf.prune(model, 0.8)


def test_a_model_without_kernels_is_refused():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(name="norm")]
    )
    with pytest.raises(ValueError, match="norm/gamma: no matrix"):
        kdtf.prune(model, 0.5)
    with pytest.raises(ValueError, match="must be built"):
        kdtf.prune(keras.Sequential([keras.layers.Dense(2)]), 0.5)
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        kdtf.prune("model", 0.5)


def test_a_block_larger_than_the_kernel_is_refused():
    with pytest.raises(
        ValueError, match=r"block \(16, 1\) for 'hidden/kernel'"
    ):
        kdtf.prune(mlp(), 0.5, structure=Block(shape=(16, 1)))


def test_missing_or_wrong_data_is_refused(data):
    with pytest.raises(ValueError, match="data=None"):
        kdtf.prune(mlp(), 0.5, criterion="wanda")
    with pytest.raises(ValueError, match=r"inputs of shape \(8, 3\)"):
        kdtf.prune(mlp(), 0.5, criterion="wanda", data=np.ones((8, 3)))
    with pytest.raises(ValueError, match="needs labels"):
        kdtf.prune(compiled(mlp()), 0.5, criterion="taylor", data=data[0])
    with pytest.raises(ValueError, match="needs the loss"):
        kdtf.prune(mlp(), 0.5, criterion="snip", data=data)


def test_a_refused_call_changes_nothing(data):
    model = mlp()
    before = model.get_weights()
    for options in (
        {"criterion": "wanda"},
        {"structure": (64, 1)},
        {"allocation": "none"},
        {"select": "no_such_layer"},
    ):
        with pytest.raises(ValueError, match="Received"):
            kdtf.prune(model, 0.5, **options)
    assert list(attach.attachments(model)) == []
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_with_nan_are_refused():
    model = mlp()
    model.get_layer("head").kernel.assign(np.full((20, 4), np.nan))
    with pytest.raises(ValueError, match="nan or infinity in 'head/kernel'"):
        kdtf.prune(model, 0.5)


def test_criteria_are_taken_as_objects(data):
    kdtf.prune(mlp(), 0.5, criterion=Magnitude())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = kdtf.prune(mlp(), 0.5, criterion=Taylor(loss), data=data)
    assert zeros(model) == {"hidden/kernel": 0.5, "head/kernel": 0.5}
