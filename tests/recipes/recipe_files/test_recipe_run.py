"""A recipe runs, goes on where it was stopped, and says what it did."""

import io
import json

import keras
import numpy as np
import pytest
import rich.console

import kdtf
from kdtf.recipes.recipe_files.running import run_recipe
from kdtf.recipes.recipe_files.steps import load_model

HEAD = """\
model: teacher.keras
data: {train: train.npz, validation: test.npz}
loss: sparse_categorical_crossentropy
metrics: [accuracy]
steps:
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A teacher of three classes that sees them, and data with labels."""
    folder = tmp_path_factory.mktemp("recipe_files")
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,), name="features"),
        keras.layers.Dense(16, activation="relu", name="hidden"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(3, name="logits"),
    ]
    model = keras.Sequential(layers)
    model.save(folder / "teacher.keras")
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    y = model.predict(x, verbose=0).argmax(-1)
    np.savez(folder / "train.npz", x=x[:64], y=y[:64])
    np.savez(folder / "test.npz", x=x[64:], y=y[64:])
    return folder


@pytest.fixture
def folder(files, tmp_path):
    for path in files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(folder, steps, *, head=HEAD, **options):
    """Runs a recipe quietly; gives the result and what was printed."""
    path = folder / "recipe.yaml"
    path.write_text(head + steps)
    text = io.StringIO()
    console = rich.console.Console(file=text, width=300)
    return run_recipe(path, console=console, **options), text.getvalue()


def lineage(folder):
    return json.loads((folder / "out/lineage.json").read_text())["files"]


def test_steps_are_done_in_order_and_said(folder):
    steps = (
        "  - shrink: {keep: 0.6, round_to: 1}\n"
        "  - prune: {sparsity: 0.5}\n"
        "  - strip\n"
    )
    result, printed = run(folder, steps)
    assert [made.name for made in result.made] == [
        "1-shrink.keras",
        "2-prune.keras",
        "3-strip.keras",
    ]
    assert result.made[2].steps == (
        "shrink keep=0.6, round_to=1",
        "prune sparsity=0.5",
        "strip",
    )
    model = keras.saving.load_model(folder / "out/3-strip.keras")
    teacher = load_model(folder / "teacher.keras")
    # 16 * (4 + 1 + 3) + 3 parameters, of which 0.6 are 78: 9 units leave 75.
    assert (teacher.count_params(), model.count_params()) == (131, 75)
    kernel = model.get_layer("hidden").kernel
    assert float(np.mean(np.array(kernel) == 0)) == 0.5
    expected = kdtf.prune(kdtf.shrink(teacher, 0.6, round_to=1), 0.5)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    x, y = (np.load(folder / "test.npz")[name] for name in "xy")
    accuracy = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
    assert result.made[2].metrics == {"accuracy": pytest.approx(accuracy)}
    assert "Step 2 of 3: prune sparsity=0.5" in printed
    assert "3-strip.keras" in str(result) and f"{accuracy:.4g}" in str(result)


def test_lineage_says_how_each_file_came_about(folder):
    run(folder, "  - shrink: {keep: 0.6}\n  - quantize: {scheme: int4}\n")
    entry = lineage(folder)["2-quantize.keras"]
    assert [list(step) for step in entry["steps"]] == [["shrink"], ["quantize"]]
    assert entry["steps"][0]["shrink"]["by"] == "parameters"
    assert entry["steps"][1]["quantize"]["scheme"] == "int4"
    assert (entry["seed"], list(entry["models"])) == (0, ["teacher.keras"])
    assert entry["seconds"] > 0 and 0 <= entry["metrics"]["accuracy"] <= 1
    assert entry["versions"]["keras"] == keras.__version__
    path = folder / "out/2-quantize.keras"
    assert entry["size_bytes"] == path.stat().st_size


def test_only_what_a_change_concerns_is_made_again(folder):
    first = "  - shrink: {keep: 0.6}\n"
    half = f"{first}  - prune: {{sparsity: 0.5}}\n  - strip\n"
    # Nothing to score: it is quicker.
    head = HEAD.replace("metrics: [accuracy]\n", "")

    def reused(steps, head=head):
        result, _ = run(folder, steps, head=head)
        return [made.is_reused for made in result.made]

    assert reused(half) == [False, False, False]
    made = lineage(folder)
    assert reused(half) == [True, True, True]
    assert lineage(folder) == made
    # A comparison between two steps changes nothing behind it.
    looked = half.replace(
        "  - prune", "  - compare: {latency_runs: 0}\n  - prune"
    )
    assert reused(looked) == [True, True, True]
    more = half.replace("0.5", "0.75")
    assert reused(more) == [True, False, False]
    assert reused(more.replace("keep: 0.6", "keep: 0.7")) == [False] * 3
    assert reused(more.replace("keep: 0.6", "keep: 0.7")) == [True] * 3
    # Damaged, but not silently used.
    path = folder / "out/2-prune.keras"
    path.write_bytes(path.read_bytes()[:-1])
    assert reused(more.replace("keep: 0.6", "keep: 0.7"))[:2] == [True, False]
    seeded = head.replace("steps:", "seed: 1\nsteps:")
    assert reused(half, head=seeded) == [False] * 3
    teacher = load_model(folder / "teacher.keras")
    teacher.set_weights([2 * weight for weight in teacher.get_weights()])
    teacher.save(folder / "teacher.keras")
    assert reused(half, head=seeded) == [False] * 3


def test_new_validation_data_only_judge_anew(folder):
    steps = "  - prune: {sparsity: 0.5}\n"
    before, _ = run(folder, steps)
    test = np.load(folder / "test.npz")
    outputs = load_model(folder / "out/1-prune.keras").predict(
        test["x"], verbose=0
    )
    np.savez(folder / "test.npz", x=test["x"], y=outputs.argmax(-1))
    after, _ = run(folder, steps)
    assert after.made[0].is_reused
    assert before.made[0].metrics["accuracy"] < 1.0
    assert after.made[0].metrics == {"accuracy": 1.0}


def test_lineage_that_was_deleted_is_measured_again(folder):
    first, _ = run(folder, "  - prune: {sparsity: 0.5}\n")
    (folder / "out/lineage.json").unlink()
    again, _ = run(folder, "  - prune: {sparsity: 0.5}\n")
    assert again.made[0].metrics == first.made[0].metrics
    assert (again.made[0].is_reused, again.made[0].seconds) == (True, None)
    (folder / "out/lineage.json").write_text("{")
    with pytest.raises(ValueError, match=r"lineage\.json is damaged"):
        run(folder, "  - prune: {sparsity: 0.5}\n")


@pytest.mark.slow
def test_a_stopped_run_gives_what_an_unbroken_one_does(folder, monkeypatch):
    """Masks, ranges, dropout and shuffling go on as they would have."""
    steps = (
        "  - shrink: {keep: 0.6}\n"
        "  - prune: {sparsity: 0.8, schedule: polynomial, epochs: 2,"
        " batch_size: 16, frequency: 2}\n"
        "  - quantize_aware: {epochs: 1, batch_size: 16}\n"
        "  - distil: {epochs: 1, batch_size: 16}\n"
        "  - strip\n"
    )
    unbroken, _ = run(folder, steps, out=folder / "unbroken")

    class KilledError(BaseException):
        pass

    from kdtf.recipes.recipe_files import running

    true_apply = running.apply
    for verb in ("quantize_aware", "distil", "strip"):

        def stopped(model, step, bench, *, name, verb=verb):
            if step.verb == verb:
                raise KilledError
            return true_apply(model, step, bench, name=name)

        monkeypatch.setattr(running, "apply", stopped)
        with pytest.raises(KilledError):
            run(folder, steps)
    monkeypatch.setattr(running, "apply", true_apply)
    resumed, _ = run(folder, steps)
    assert [made.is_reused for made in resumed.made] == [True] * 4 + [False]
    for a, b in zip(unbroken.made, resumed.made, strict=True):
        assert (a.name, a.metrics) == (b.name, b.metrics)
        one, other = (load_model(r.out / a.name) for r in (unbroken, resumed))
        for x, y in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(x, y)
    # The zeros of the pruning lived through two more trainings.
    kernel = np.array(other.get_layer("hidden").kernel)
    assert np.mean(kernel == 0) >= 0.8


def test_a_diverging_step_is_named_and_leaves_the_others(folder):
    steps = (
        "  - prune: {sparsity: 0.5}\n"
        "  - fit: {optimizer: sgd, learning_rate: 1e38}\n"
    )
    words = r"Step 2 of 2 \(fit\) failed: .*diverged.*epoch 1 of 1.*stays in"
    with pytest.raises(ValueError, match=words):
        run(folder, steps)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "1-prune.keras",
        "lineage.json",
        "stages.json",
    ]
    assert list(lineage(folder)) == ["1-prune.keras"]


def test_a_step_that_refuses_its_model_is_named(folder):
    with pytest.raises(ValueError, match=r"Step 1 of 1 \(prune\) failed.*zzz"):
        run(folder, "  - prune: {sparsity: 0.5, select: [zzz]}\n")


@pytest.mark.slow
def test_labels_beyond_the_classes_are_named(folder):
    train = np.load(folder / "train.npz")
    np.savez(folder / "train.npz", x=train["x"], y=train["y"] * 0 + 7)
    words = r"\(fit\) failed: Received a label value of 7 [^\n]*$"
    with pytest.raises(ValueError, match=words):
        run(folder, "  - fit\n")


def test_labels_are_missed_before_anything_is_made(folder):
    x = np.load(folder / "train.npz")["x"]
    np.savez(folder / "train.npz", x=x)
    with pytest.raises(ValueError, match="data.train without"):
        run(folder, "  - strip\n".replace("strip", "shrink"))
    assert not (folder / "out").exists()


def test_a_share_is_kept_from_training_at_random(folder):
    from kdtf.recipes.recipe_files.arrays import read_data
    from kdtf.recipes.recipe_files.reading import read_recipe

    text = HEAD.replace("test.npz", "0.25") + "  - shrink\n"
    np.savez(
        folder / "train.npz",
        x=np.arange(8),
        y=np.arange(8),
        sample_weight=np.ones(8),
    )
    (folder / "recipe.yaml").write_text(text)
    train, held = read_data(read_recipe(folder / "recipe.yaml"), folder)
    assert [len(part) for part in train] == [6, 6, 6]
    assert sorted([*train[0], *held[0]]) == list(range(8))
    assert held[0].tolist() == held[1].tolist() != [6, 7]
    (folder / "recipe.yaml").write_text(text.replace("0.25", "0.01"))
    with pytest.raises(ValueError, match="leave examples on both sides"):
        read_data(read_recipe(folder / "recipe.yaml"), folder)


def test_weights_without_labels_are_refused(folder):
    np.savez(folder / "test.npz", x=np.ones((2, 4)), sample_weight=np.ones(2))
    with pytest.raises(ValueError, match=r"test\.npz.*no `y`"):
        run(folder, "  - shrink\n")


def test_models_of_tf_keras_are_refused(folder):
    import tf_keras

    dense = tf_keras.layers.Dense(3, input_shape=(4,))
    tf_keras.Sequential([dense]).save(folder / "teacher.keras")
    with pytest.raises(ValueError, match="A recipe is for models of Keras 3"):
        run(folder, "  - shrink\n")


def test_a_student_from_a_file_is_part_of_the_key(folder):
    from kdtf.recipes.recipe_files.keys import Keys
    from kdtf.recipes.recipe_files.reading import read_recipe

    student = load_model(folder / "teacher.keras")
    student.save(folder / "student.keras")
    path = folder / "recipe.yaml"
    path.write_text(HEAD + "  - distil: {student: student.keras}\n")
    recipe = read_recipe(path)
    before = Keys(recipe, folder).of(recipe.steps)
    student.set_weights([2 * weight for weight in student.get_weights()])
    student.save(folder / "student.keras")
    after = Keys(recipe, folder).of(recipe.steps)
    assert list(before["models"]) == ["teacher.keras", "student.keras"]
    assert before["models"]["student.keras"] != after["models"]["student.keras"]
    assert Keys(recipe, folder).of([])["models"] == {
        "teacher.keras": before["models"]["teacher.keras"]
    }


def by_movement(model, data):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    criterion = kdtf.pruning.Movement(loss=loss)
    return kdtf.prune(model, 0.5, criterion=criterion, data=data)


@pytest.mark.parametrize(
    ("step", "verb"),
    [
        (
            "prune: {sparsity: 0.5, criterion: movement}",
            by_movement,
        ),
        (
            "quantize: {scheme: int4, method: gptq}",
            lambda model, data: kdtf.quantize(
                model, "int4", data[0], method="gptq"
            ),
        ),
        (
            "cluster: {num_clusters: 4}",
            lambda model, data: kdtf.cluster(model, 4),
        ),
        (
            "quantize_aware: {scheme: {'*logits/kernel': int2, '*': null},"
            " epochs: 0}",
            lambda model, data: kdtf.quantize_aware(
                model, {"*logits/kernel": "int2", "*": None}
            ),
        ),
    ],
    ids=["prune", "quantize", "cluster", "quantize_aware"],
)
def test_what_is_attached_comes_back_from_the_file(folder, step, verb):
    run(folder, f"  - {step}\n")
    # In a second run, which has the file only.
    run(folder, f"  - {step}\n  - strip\n")
    stripped = load_model(folder / "out/2-strip.keras")
    train = np.load(folder / "train.npz")
    keras.utils.set_random_seed(0)
    model = load_model(folder / "teacher.keras")
    expected = kdtf.strip(verb(model, (train["x"], train["y"])))
    for a, b in zip(
        stripped.get_weights(), expected.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # It did something.
    real = load_model(folder / "teacher.keras").get_layer("logits").kernel
    assert np.any(np.array(real) != stripped.get_layer("logits").kernel)


@pytest.mark.slow
def test_export_and_compare_write_files_with_their_lineage(folder):
    steps = (
        "  - shrink: {keep: 0.6}\n"
        "  - quantize: {scheme: int8}\n"
        "  - export: {target: iot, file: small.tflite}\n"
        "  - compare: {html: report.html, json: report.json, latency_runs: 2}\n"
    )
    result, printed = run(folder, steps)
    assert [row.name for row in result.comparison] == [
        "teacher",
        "small.tflite",
    ]
    made = result.made[-1]
    path = folder / "out/small.tflite"
    assert (made.name, made.size_bytes) == ("small.tflite", path.stat().st_size)
    assert made.metrics == result.comparison["small.tflite"].metrics
    assert "target iot, quantize int8" in made.result
    assert "target iot, quantize int8" in printed
    page = (folder / "out/report.html").read_text()
    for words in (
        "Lineage",
        "2-quantize.keras",
        "-&gt; quantize scheme=int8",
        "kdtf run ",
    ):
        assert words in page, words
    assert json.loads((folder / "out/report.json").read_text())["rows"]
    again, printed = run(folder, steps)
    assert [made.is_reused for made in again.made] == [True] * 3
    assert "Step 3 of 4: export" in printed and "reusing" in printed
    assert again.made[-1].result == made.result


def test_a_loss_by_name_is_told_what_the_model_gives():
    from kdtf.recipes.recipe_files.steps import loss_of

    logits = [keras.Input((4,)), keras.layers.Dense(1)]
    model = keras.Sequential(logits)
    sure = keras.Sequential([*logits, keras.layers.Activation("sigmoid")])
    # Only running it tells.
    hidden = keras.Sequential([*logits, keras.layers.Rescaling(2.0)])
    x = np.ones((1, 4))
    for name in ("binary_crossentropy", "BinaryCrossentropy"):
        given = [
            loss_of(name, each, x).get_config()["from_logits"]
            for each in (model, sure, hidden)
        ]
        assert given == [True, False, True], name
    plain = loss_of("mean_squared_error", model, x)
    assert plain.__name__ == "mean_squared_error"


@pytest.mark.slow
def test_tensorboard_holds_both_losses_of_a_distillation(folder):
    from tensorboard.backend.event_processing import event_accumulator

    head = HEAD.replace("steps:", "tensorboard: true\nsteps:")
    steps = "  - shrink: {keep: 0.6}\n  - distil: {epochs: 2}\n"
    run(folder, steps, head=head)
    logs = folder / "out/tensorboard"
    assert [path.name for path in logs.iterdir()] == ["2-distil"]
    events = event_accumulator.EventAccumulator(
        str(logs / "2-distil/train"), size_guidance={"tensors": 0}
    ).Reload()
    tags = set(events.Tags()["tensors"])
    wanted = {"epoch_loss", "epoch_hard_loss", "epoch_soft_loss"}
    assert wanted | {"epoch_accuracy"} <= tags
    hard, soft, loss = (
        [
            float(np.frombuffer(e.tensor_proto.tensor_content, "float32")[0])
            if e.tensor_proto.tensor_content
            else e.tensor_proto.float_val[0]
            for e in events.Tensors(f"epoch_{name}")
        ]
        for name in ("hard_loss", "soft_loss", "loss")
    )
    assert len(loss) == 2
    np.testing.assert_allclose(
        loss, 0.1 * np.array(hard) + 0.9 * np.array(soft), rtol=1e-4
    )


def test_tensorboard_that_is_not_installed_is_missed_first(folder, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"kdtf\[tensorboard\]"):
        run(folder, "  - shrink\n", tensorboard=folder / "logs")
    assert not (folder / "out").exists()
