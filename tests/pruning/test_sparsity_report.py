import keras
import numpy as np
import pytest
import tf_keras

import kdtf


@pytest.fixture
def pruned():
    layers = [
        keras.Input((8,)),
        keras.layers.Dense(4, name="hidden"),
        keras.layers.Dense(4, name="[red]head"),
    ]
    model = keras.Sequential(layers, name="mlp")
    return kdtf.prune(model, 0.75, structure=(4, 1), select="hidden")


def test_counts_are_those_of_the_weights(pruned):
    report = kdtf.sparsity_report(pruned)
    hidden, head = report.kernels
    assert (hidden.path, hidden.shape) == ("hidden/kernel", (8, 4))
    assert (hidden.num_parameters, hidden.num_zeros) == (32, 24)
    assert hidden.sparsity == hidden.zero_blocks == 0.75
    assert (head.num_zeros, head.zero_blocks) == (0, 0.0)
    # The biases start at 0, too.
    assert (report.num_parameters, report.num_zeros) == (56, 24 + 8)
    assert report.size_bytes == 224
    assert report.gzip_size_bytes < report.size_bytes


def test_notes_say_what_was_pruned_and_why_not(pruned):
    notes = {k.path: k.note for k in kdtf.sparsity_report(pruned).kernels}
    assert notes == {
        "hidden/kernel": "pruned",
        "[red]head/kernel": "not selected",
    }


def test_text_holds_the_table_and_what_it_means(pruned):
    text = str(kdtf.sparsity_report(pruned))
    row = next(line for line in text.splitlines() if "hidden/kernel" in line)
    assert row.split() == [
        "hidden/kernel",
        "8x4",
        "32",
        "0.750",
        "0.750",
        "pruned",
    ]
    assert "[red]head/kernel" in text
    assert "75% of the blocks of 4 weights are 0" in text
    assert "sparse=True" in text


def test_single_zeros_are_said_to_make_nothing_faster():
    layers = [keras.Input((64,)), keras.layers.Dense(64)]
    model = kdtf.prune(keras.Sequential(layers), 0.5)
    report = kdtf.sparsity_report(model)
    words = " ".join(report.words())
    assert "only what is compressed" in words
    assert "make nothing faster" in words and "structure='litert'" in words
    assert kdtf.strip(model) and report.kernels[0].note == "pruned"
    assert kdtf.sparsity_report(model).kernels[0].note == ""


def test_a_dense_model_has_no_zeros():
    layers = [keras.Input((4,)), keras.layers.Dense(4, use_bias=False)]
    report = kdtf.sparsity_report(keras.Sequential(layers))
    assert report.words() == ["No weight is 0."]
    assert report.sparsity == 0.0


def test_two_calls_share_one_report(pruned):
    kdtf.prune(pruned, 0.5, select="*head")
    notes = {k.path: k.note for k in kdtf.sparsity_report(pruned).kernels}
    assert set(notes.values()) == {"pruned"}


def test_notebooks_get_table_and_picture(pruned):
    html = kdtf.sparsity_report(pruned)._repr_html_()
    assert html.startswith("<pre ") and "<svg" in html
    assert "hidden/kernel" in html and "Fraction of zeros" in html
    # One bar of 0.75 of the width: its path goes that far.
    assert html.count("<path") > 4


@pytest.mark.tfmot
def test_wrappers_of_tfmot_are_not_counted():
    layers = [tf_keras.layers.Dense(4, input_shape=(8,), name="hidden")]
    model = kdtf.prune(tf_keras.Sequential(layers), 0.5)
    report = kdtf.sparsity_report(model)
    assert [kernel.shape for kernel in report.kernels] == [(8, 4)]
    assert report.kernels[0].num_zeros == 16
    assert report.num_parameters == 36


def test_a_model_without_weights_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="must have weights"):
        kdtf.sparsity_report(model)
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        kdtf.sparsity_report(np.ones(3))


def test_biases_of_heads_are_no_kernels():
    layer = keras.layers.EinsumDense(
        "abc,cde->abde", (None, 2, 3), bias_axes="de", name="heads"
    )
    model = keras.Sequential([keras.Input((4, 5)), layer])
    report = kdtf.sparsity_report(model)
    assert [kernel.path for kernel in report.kernels] == ["heads/kernel"]
