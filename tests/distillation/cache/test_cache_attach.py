"""What the teacher said comes back beside the right example."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation import targets
from kdtf.distillation.cache import CacheError
from kdtf.distillation.cache import TeacherCache
from kdtf.distillation.cache import cache_teacher
from kdtf.distillation.cache import teacher_cache

SMALL = {"batch_size": 4, "shard_megabytes": 4e-4, "verbose": 0}


@pytest.fixture
def teacher():
    ids = keras.Input((4,), dtype="int32", name="ids")
    mask = keras.Input((4,), dtype="bool", name="mask")
    kept = keras.ops.cast(mask, "float32")[..., None]
    states = keras.layers.Embedding(11, 8)(ids) * kept
    outputs = keras.layers.Dense(11)(states)
    return keras.Model({"ids": ids, "mask": mask}, outputs)


@pytest.fixture
def x(rng):
    ids = rng.integers(0, 11, (23, 4)).astype("int32")
    ids[:, 0] = np.arange(23) % 11
    ids[:, 1] = np.arange(23) // 11
    return {"ids": ids, "mask": rng.integers(0, 2, (23, 4)).astype(bool)}


def as_dataset(*parts, shuffle=0, batch_size=5):
    dataset = tf.data.Dataset.from_tensor_slices(parts)
    if shuffle:
        dataset = dataset.shuffle(shuffle)
    return dataset.batch(batch_size)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, "float16"),
        ({"dtype": "float32"}, "float32"),
        ({"top_k": 3, "temperature": 2.0}, "float16"),
        ({"samples": 6, "dtype": "float32"}, "float32"),
    ],
)
def test_shuffled_rows_come_back_as_the_teacher_gave_them(
    teacher, x, tmp_path, settings, dtype
):
    y = np.arange(23)
    cache = cache_teacher(teacher, (x, y), tmp_path, **SMALL, **settings)
    assert len(cache._shards) > 1
    logits = teacher.predict(x, verbose=0).astype("float64")
    logits /= settings.get("temperature", 1.0)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    # Rounding to float16, of numbers up to 8.
    atol = 4e-3 if dtype == "float16" else 1e-5
    seen = []
    for joined, labels in cache.attach(as_dataset(x, y, shuffle=23)):
        given, found = targets.split(joined)
        at = labels.numpy()
        seen += at.tolist()
        np.testing.assert_array_equal(given["ids"], x["ids"][at])
        found = {name: part.numpy() for name, part in found.items()}
        if cache.kind == "dense":
            assert found["logits"].dtype == dtype
            np.testing.assert_allclose(found["logits"], logits[at], atol=atol)
            continue
        used = found.get("weights", np.ones_like(found["log_probs"])) > 0
        expected = np.take_along_axis(log_p[at], found["ids"], -1)
        assert found["ids"].dtype == np.int32
        assert found["log_probs"].dtype == dtype
        np.testing.assert_allclose(
            found["log_probs"][used], expected[used], atol=atol
        )
        if cache.kind == "top_k":
            rest = 1 - np.exp(expected).sum(-1)
            np.testing.assert_allclose(
                found["log_rest"], np.log(rest), atol=atol
            )
        else:
            assert found["weights"].dtype == np.float32
            np.testing.assert_allclose(found["weights"].sum(-1), 1, rtol=1e-6)
    assert sorted(seen) == list(range(23)) != seen


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"samples": 3}])
def test_shapes_are_static_and_elements_keep_their_form(
    teacher, x, tmp_path, settings
):
    cache = cache_teacher(teacher, (x,), tmp_path, **SMALL, **settings)
    y, weight = np.arange(23), np.ones(23, "float32")
    data = as_dataset(x, y, weight).unbatch().batch(5, drop_remainder=True)
    joined, label, sample_weight = cache.attach(data).element_spec
    assert label.shape == sample_weight.shape == (5,)
    shapes = {k: tuple(v.shape) for k, v in joined["kdtf_teacher"].items()}
    assert (
        shapes
        == {
            "dense": {"logits": (5, 4, 11)},
            "top_k": {
                "ids": (5, 4, 2),
                "log_probs": (5, 4, 2),
                "log_rest": (5, 4),
            },
            "samples": {
                "ids": (5, 4, 3),
                "log_probs": (5, 4, 3),
                "weights": (5, 4, 3),
            },
        }[cache.kind]
    )
    bare = cache.attach(data.map(lambda x, y, w: x)).element_spec
    assert targets.is_joined(bare)
    (alone,) = cache.attach((x,)).element_spec
    assert targets.is_joined(alone)
    assert alone["kdtf_inputs"]["ids"].shape == (None, 4)
    assert targets.is_joined(cache.attach(x).element_spec[0])


def test_duplicates_and_any_choice_of_rows_are_found(teacher, x, tmp_path):
    twice = {k: np.concatenate([v, v[:7]]) for k, v in x.items()}
    cache = cache_teacher(teacher, (twice,), tmp_path, **SMALL)
    logits = teacher.predict(x, verbose=0)
    order = [22, 3, 3, 0, 9, 22]
    ((joined,),) = cache.attach(({k: v[order] for k, v in x.items()},))
    found = joined["kdtf_teacher"]["logits"]
    np.testing.assert_allclose(found, logits[order], atol=4e-3)


def test_more_shards_than_may_be_open_are_read(
    teacher, x, tmp_path, monkeypatch
):
    monkeypatch.setattr(teacher_cache, "_MAX_OPEN_SHARDS", 2)
    settings = {"batch_size": 1, "shard_megabytes": 1e-6, "verbose": 0}
    cache = cache_teacher(teacher, (x,), tmp_path, **settings)
    assert len(cache._shards) == 23
    ((joined,),) = cache.attach((x,))
    found = joined["kdtf_teacher"]["logits"]
    logits = teacher.predict(x, verbose=0)
    np.testing.assert_allclose(found, logits, atol=4e-3)


def test_an_unknown_row_is_refused_at_once_or_when_it_comes(
    teacher, x, tmp_path
):
    cache = cache_teacher(teacher, (x,), tmp_path, **SMALL)
    first, last = ({k: v.copy() for k, v in x.items()} for _ in range(2))
    first["ids"][2, 0] += 1
    last["mask"][20] ^= True
    with pytest.raises(CacheError, match="1 of 5 examples.*row 2 of the batch"):
        cache.attach((first,), batch_size=5)
    dataset = cache.attach((last,), batch_size=5)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="not in the cache.*random augmentation.*row 0 of the batch",
    ):
        list(dataset)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {**x, "ids": x["ids"].astype("int64")},
        lambda x: {"ids": x["ids"]},
        lambda x: {"ids": x["ids"], "padding": x["mask"]},
        lambda x: {**x, "ids": x["ids"][:, :3]},
    ],
)
def test_inputs_of_another_form_are_refused_by_attach(
    teacher, x, tmp_path, change
):
    cache = cache_teacher(teacher, (x,), tmp_path, **SMALL)
    with pytest.raises(CacheError, match="same names, dtypes and shapes"):
        cache.attach((change(x),))


def augment(x, seed):
    """Adds noise that (row, seed) decides, and an id that says both."""
    noise = np.random.default_rng(seed).normal(size=x.shape)
    ids = np.arange(len(x)) * 1000 + seed
    return {"image": (x + noise).astype("float32"), "id": ids}


def key(x):
    return x["id"]


def image(x):
    return x["image"]


@pytest.fixture
def augmented(rng, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = rng.normal(size=(6, 3))
    data = [augment(x, seed) for seed in (0, 1)]
    both = {k: np.concatenate([d[k] for d in data]) for k in data[0]}
    cache = cache_teacher(
        model, (both,), tmp_path, key=key, inputs=image, **SMALL
    )
    return model, x, data, cache


def test_augmentation_by_a_seed_in_the_id_is_found(augmented):
    model, _, data, cache = augmented
    dataset = cache.attach((data[1],), key=key, inputs=image)
    ((joined,),) = dataset
    given, found = targets.split(joined)
    np.testing.assert_array_equal(given, data[1]["image"])
    logits = model.predict(data[1]["image"], verbose=0)
    np.testing.assert_allclose(found["logits"], logits, atol=4e-3)


def test_augmentation_by_a_seed_not_in_the_id_is_refused(augmented):
    _, x, data, cache = augmented
    other = {**augment(x, 2), "id": data[0]["id"]}
    with pytest.raises(CacheError, match="another content.*id 0"):
        cache.attach((other,), key=key)
    with pytest.raises(CacheError, match="not in the cache"):
        cache.attach((augment(x, 2),), key=key)


def test_key_is_needed_where_it_was_given_and_only_there(
    augmented, teacher, x, tmp_path
):
    _, _, data, cache = augmented
    with pytest.raises(CacheError, match="made with one"):
        cache.attach((data[0],))
    plain = cache_teacher(teacher, (x,), tmp_path / "b", **SMALL)
    with pytest.raises(CacheError, match="made without one"):
        plain.attach((x,), key=lambda x: x["ids"][:, 0])


def test_an_id_with_two_contents_is_refused_when_caching(tmp_path, rng):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = {"image": rng.normal(size=(3, 3)), "id": np.array(["a", "b", "a"])}
    with pytest.raises(CacheError, match="with two contents"):
        cache_teacher(model, (x,), tmp_path, key=key, inputs=image, verbose=0)


def test_a_training_step_takes_what_attach_gives(teacher, x, tmp_path):
    cache_teacher(teacher, (x, np.zeros(23)), tmp_path, **SMALL, top_k=3)
    cache = TeacherCache(tmp_path)

    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, joined):
            _, found = targets.split(joined)
            return self.dense(keras.ops.cast(found["log_rest"], "float32"))

    student = Student()
    student.compile("sgd", "mse", steps_per_execution=2)
    dataset = cache.attach(as_dataset(x, np.zeros(23))).shuffle(3).repeat()
    before = student.fit(dataset, epochs=1, steps_per_epoch=4, verbose=0)
    after = student.fit(dataset, epochs=20, steps_per_epoch=4, verbose=0)
    assert after.history["loss"][-1] < before.history["loss"][0]
