import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.batches import first_examples
from kdtf.batches import iterate_batches
from kdtf.batches import num_examples_of


def test_arrays_are_cut_into_batches_with_a_rest():
    x, y = np.arange(10).reshape(5, 2), np.arange(5)
    batches = list(iterate_batches((x, y), batch_size=2))
    assert [batch.x.tolist() for batch in batches] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8, 9]],
    ]
    assert [batch.y.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[0].sample_weight is None


def test_dict_inputs_and_weights_are_cut_together():
    x = {"a": np.arange(3), "b": np.arange(6).reshape(3, 2)}
    data = (x, np.zeros(3), np.array([1.0, 0.0, 2.0]))
    last = list(iterate_batches(data, batch_size=2))[-1]
    assert last.x["a"].tolist() == [2]
    assert last.x["b"].tolist() == [[4, 5]]
    assert last.sample_weight.tolist() == [2.0]


def test_a_dataset_keeps_its_own_batches():
    x = np.arange(6.0).reshape(3, 2)
    dataset = tf.data.Dataset.from_tensor_slices(((x, x + 1), [0, 1, 2]))
    batches = list(iterate_batches(dataset.batch(2), batch_size=99))
    assert [batch.y.tolist() for batch in batches] == [[0, 1], [2]]
    assert batches[1].x[1].tolist() == [[5.0, 6.0]]
    assert isinstance(batches[1].x[1], np.ndarray)


@pytest.mark.parametrize(
    "data", [np.ones((3, 2)), (np.ones((3, 2)),), (np.ones((3, 2)), None)]
)
def test_data_may_have_no_labels(data):
    (batch,) = iterate_batches(data)
    assert batch.x.shape == (3, 2)
    assert batch.y is None


def test_first_examples_reads_only_the_first_batch():
    read = []

    def generate():
        for number in range(5):
            read.append(number)
            yield np.full((8, 2), number), np.zeros(8)

    specs = (tf.TensorSpec((8, 2)), tf.TensorSpec((8,)))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=specs)
    assert first_examples(dataset, 3).tolist() == [[0.0, 0.0]] * 3
    # TensorFlow itself may read one ahead.
    assert read in ([0], [0, 1])


def test_first_examples_are_fewer_if_there_are_no_more():
    data = ({"a": np.arange(2)}, np.zeros(2))
    assert keras.tree.map_structure(len, first_examples(data, 4)) == {"a": 2}


def test_labels_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"shapes=\[\(3, 2\), \(2,\)\]"):
        list(iterate_batches((np.ones((3, 2)), np.ones(2))))


def test_scalars_have_no_examples():
    with pytest.raises(ValueError, match="first dimension"):
        num_examples_of([np.float32(3.0)])


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        list(iterate_batches((np.ones((0, 2)), np.ones(0))))


def test_a_dataset_without_end_is_refused():
    dataset = tf.data.Dataset.from_tensors(([1.0], [1])).repeat()
    with pytest.raises(ValueError, match=r"\.take\(num_batches\)"):
        list(iterate_batches(dataset))


@pytest.mark.parametrize("data", [iter([1]), "data", (1, 2, 3, 4)])
def test_other_data_is_refused_with_the_way_out(data):
    with pytest.raises(TypeError, match="from_generator"):
        list(iterate_batches(data))
