"""A student's own words: fresh, masked, repeatable, and worth training on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import losses
from kdtf.distillation.on_policy import on_policy_dataset
from kdtf.distillation.targets import join
from kdtf.distillation.writing import SamplerSettings
from kdtf.distillation.writing import Writer

WIDTH = 8
PROMPTS = [[3, 4], [5], [6, 7, 8]]


def gpt2(width=8, scale=8.0):
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=16,
        num_layers=1,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=2 * width,
        dropout=0.0,
        max_sequence_length=WIDTH,
    )
    for weight in backbone.weights:
        weight.assign(weight * scale)
    return keras_nlp.models.GPT2CausalLM(backbone)


def distiller_of(student=None, *, alpha=0.0, learning_rate=0.01, **kwargs):
    kwargs = {"soft_loss": "reverse_kl", "temperature": 1.0, **kwargs}
    distiller = kdtf.Distiller(
        gpt2(), student or gpt2(4), alpha=alpha, **kwargs
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(learning_rate), loss=loss)
    return distiller


def windows(num_rows=8, batch_size=2, weighted=True):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 16, (num_rows, WIDTH + 1)).astype("int32")
    x = {
        "token_ids": ids[:, :-1],
        "padding_mask": np.ones((num_rows, WIDTH), "int32"),
    }
    parts = (x, ids[:, 1:])
    if weighted:
        parts += (rng.random((num_rows, WIDTH)).astype("float32"),)
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


def own(distiller, dataset=None, **kwargs):
    kwargs = {"fraction": 1.0, "end_id": 2, **kwargs}
    dataset = windows() if dataset is None else dataset
    return on_policy_dataset(distiller, dataset, PROMPTS, **kwargs)


def elements(dataset):
    return [keras.tree.map_structure(np.array, element) for element in dataset]


def same(first, second):
    flat = keras.tree.flatten
    return all(
        np.all(a == b) for a, b in zip(flat(first), flat(second), strict=True)
    )


def test_nothing_of_the_students_is_the_dataset_itself():
    dataset = windows()
    assert own(distiller_of(), dataset, fraction=0.0) is dataset
    # There the labels are the dataset's, and alpha is free.
    assert own(distiller_of(alpha=0.5), dataset, fraction=0.0) is dataset


def test_batches_are_the_students_answers_or_the_datasets():
    distiller = distiller_of()
    dataset = windows(num_rows=65)
    mixed = own(distiller, dataset, seed=3)
    assert int(mixed.cardinality()) == 33
    all_own = elements(mixed)
    assert [len(y) for _, y, _ in all_own] == [2] * 32 + [1]
    half = elements(own(distiller, dataset, seed=3, fraction=0.5))
    theirs = elements(dataset)
    is_own = [same(h, o) for h, o in zip(half, all_own, strict=True)]
    is_theirs = [same(h, t) for h, t in zip(half, theirs, strict=True)]
    assert all(o != t for o, t in zip(is_own, is_theirs, strict=True))
    assert 8 < sum(is_own) < 25


def test_answers_begin_with_prompts_and_only_they_are_learned():
    distiller = distiller_of()
    starts = set()
    for x, y, weight in elements(own(distiller, seed=1)):
        assert x["token_ids"].dtype == y.dtype == np.int32
        for ids, mask, labels, weights in zip(
            x["token_ids"], x["padding_mask"], y, weight, strict=True
        ):
            prompt = next(p for p in PROMPTS if ids[0] == p[0])
            starts.add(ids[0])
            n = len(prompt)
            assert ids[:n].tolist() == prompt
            num_real = int(mask.sum())
            assert mask.tolist() == [1] * num_real + [0] * (WIDTH - num_real)
            assert labels[: num_real - 1].tolist() == ids[1:num_real].tolist()
            assert np.flatnonzero(weights).tolist() == list(
                range(n - 1, num_real - 1)
            )
            assert 2 not in ids[n : num_real - 1]
            assert num_real == WIDTH or ids[num_real - 1] == 2
    assert starts == {3, 5, 6}


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_words_come_from_the_weights_of_that_very_step(
    monkeypatch, jit_compile
):
    distiller = distiller_of()
    # TensorFlow counts steps and decays weights as soon as it can.
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    distiller.compile(optimizer, loss=distiller.loss, jit_compile=jit_compile)
    written, begun = [], []
    original = Writer.write

    def state():
        return [int(optimizer.iterations), *distiller.student.get_weights()]

    def recorded(self, *args, **kwargs):
        written.append(state())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Writer, "write", recorded)
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begun.append(state())
    )
    distiller.fit(own(distiller), epochs=2, callbacks=[callback], verbose=0)
    assert len(begun) == len(written) == 8
    assert all(
        same(first, second)
        for first, second in zip(written, begun, strict=True)
    )
    assert not same(begun[0], begun[1])


def test_the_function_that_writes_sees_new_weights():
    distiller = distiller_of()
    mixed = own(distiller, temperature=0.0)
    before = elements(mixed)
    assert same(before, elements(mixed))
    for weight in distiller.student.trainable_variables:
        weight.assign(-weight)
    fresh = elements(own(distiller, temperature=0.0))
    assert not same(before, fresh)
    assert same(elements(mixed), fresh)


@pytest.mark.slow
# keras_nlp's own: it says so of each task model inside of another.
@pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called:UserWarning")
def test_a_training_in_two_parts_ends_with_the_same_weights(tmp_path):
    def student():
        keras.utils.set_random_seed(1)
        return gpt2(4)

    whole = distiller_of(student())
    teacher = whole.teacher
    initial = whole.student.get_weights()
    whole.fit(own(whole, fraction=0.7), epochs=2, verbose=0)
    first = distiller_of(student())
    first.set_teacher(teacher)
    assert same(initial, first.student.get_weights())
    first.fit(own(first, fraction=0.7), epochs=1, verbose=0)
    first.save(tmp_path / "half.keras")
    second = keras.saving.load_model(tmp_path / "half.keras")
    second.set_teacher(teacher)
    second.fit(own(second, fraction=0.7), epochs=1, verbose=0)
    assert same(whole.student.get_weights(), second.student.get_weights())
    assert not same(initial, second.student.get_weights())
    # Another seed is another training.
    other = distiller_of(student())
    other.set_teacher(teacher)
    other.fit(own(other, fraction=0.7, seed=5), epochs=2, verbose=0)
    assert not same(whole.student.get_weights(), other.student.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize(
    "soft_loss",
    ["reverse_kl", pytest.param("jensen_shannon", marks=pytest.mark.slow)],
)
def test_training_brings_the_students_words_to_the_teacher(soft_loss):
    distiller = distiller_of(
        gpt2(8, scale=4.0), soft_loss=soft_loss, learning_rate=0.01
    )

    def divergence():
        """The mean over the student's own words, of fresh samples."""
        writer = Writer(
            distiller.student,
            max_length=WIDTH,
            end_id=2,
            settings=SamplerSettings(),
            argument="student",
        )
        ids = writer.prompt_ids(PROMPTS * 40)
        x, _, weight = writer.to_windows(writer.write(ids, seed=(99,)))
        values = losses.reverse_kl_divergence(
            distiller.teacher(x), distiller.student(x), temperature=1.0
        )
        return float((values * weight).numpy().sum() / weight.sum())

    before = divergence()
    dataset = windows(num_rows=480, batch_size=8)
    distiller.fit(own(distiller, dataset), verbose=0)
    after = divergence()
    assert before > 0.5
    assert after < 0.5 * before


def test_weights_are_added_where_a_dataset_has_none():
    distiller = distiller_of()
    # So small a part that all batches are the dataset's.
    mixed = own(distiller, windows(weighted=False), fraction=1e-9)
    for (x, y, weight), (other_x, other_y) in zip(
        elements(mixed), elements(windows(weighted=False)), strict=True
    ):
        assert same((x, y), (other_x, other_y))
        assert weight.shape == y.shape and (weight == 1).all()
    per_row = windows(weighted=False).map(
        lambda x, y: (x, y, tf.constant([1.0, 3.0]))
    )
    for _, y, weight in elements(own(distiller, per_row, fraction=1e-9)):
        assert weight.shape == y.shape
        assert (weight == [[1.0], [3.0]]).all()


def test_labels_and_own_words_do_not_go_together():
    with pytest.raises(ValueError, match="`alpha` must be 0.*alpha="):
        own(distiller_of(alpha=0.1))
    later = kdtf.PolynomialSchedule(initial=0.0, final=0.5, end_step=10)
    with pytest.raises(ValueError, match="`alpha` must be 0.*Polynomial"):
        own(distiller_of(alpha=later))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction={fraction}"):
        own(distiller_of(), fraction=fraction)


def test_what_is_no_distiller_or_no_dataset_is_refused():
    distiller = distiller_of()
    with pytest.raises(TypeError, match="type=GPT2CausalLM"):
        own(distiller.student)
    with pytest.raises(TypeError, match=r"type=tuple.*batch\(8\)"):
        own(distiller, (np.ones((2, 8)), np.ones((2, 8))))


def test_a_student_that_cannot_write_is_refused(tiny_cnn):
    distiller = kdtf.Distiller(
        keras.models.clone_model(tiny_cnn), tiny_cnn, alpha=0.0
    )
    with pytest.raises(TypeError, match="`distiller.student` must"):
        own(distiller)


def test_batches_that_are_no_windows_are_refused():
    distiller = distiller_of()
    with pytest.raises(ValueError, match="dict of 'token_ids'"):
        own(distiller, windows().map(lambda x, y, w: (x["token_ids"], y)))
    with pytest.raises(ValueError, match="dict of 'token_ids'"):
        own(distiller, windows().map(lambda x, y, w: x))
    with pytest.raises(ValueError, match="one length.*Batch it"):
        own(distiller, windows().unbatch())
    with pytest.raises(ValueError, match="cached teacher cannot judge"):
        own(
            distiller,
            windows().map(lambda x, y, w: (join(x, {"logits": y}), y, w)),
        )
