"""int8 training of `tf_keras` models: what is simulated, kept and exported."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from kdtf.quantization import tfmot_models
from kdtf.quantization.tfmot_models import quantize_aware
from kdtf.transforms.quantize_wrappers import check_ranges
from kdtf.transforms.quantize_wrappers import left_in_float
from kdtf.transforms.quantize_wrappers import quantize_wrappers
from kdtf.transforms.tfmot_models import check_plain
from kdtf.transforms.tfmot_models import has_quantize_wrappers
from kdtf.transforms.tfmot_models import strip

pytestmark = [pytest.mark.slow, pytest.mark.tfmot]


def sequential(shape, *rest):
    return tf_keras.Sequential([layers.InputLayer(shape), *rest])


def cnn():
    return sequential(
        (8, 8, 1),
        layers.Conv2D(4, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.BatchNormalization(name="norm_2"),
        layers.ReLU(6.0, name="relu6"),
        layers.Flatten(name="flatten"),
        layers.Dense(16, name="hidden"),
        layers.ReLU(name="relu_3"),
        layers.Dense(4, name="head"),
    )


def mlp():
    return sequential(
        (8,), layers.Dense(16, name="hidden"), layers.Dense(4, name="head")
    )


@pytest.fixture
def images(batch):
    return batch[0]


def trained(model, x, epochs=3):
    targets = np.random.default_rng(1).normal(size=model(x).shape)
    model.compile(tf_keras.optimizers.Adam(0.01), "mse")
    model.fit(x, targets.astype("float32"), epochs=epochs, verbose=0)
    return model


def converted(model, folder):
    """Writes an int8 file as `kdtf.export` does, without its checks."""
    spec = tf.TensorSpec([1, *model.input_shape[1:]], "float32")
    serve = tf.function(lambda x: model(x, training=False), [spec])
    module = tf.Module()
    module.flat = list(serve.get_concrete_function().graph.variables)
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serve": serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()


def interpreted(content):
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    return interpreter


def output_types(interpreter):
    types = {t["index"]: t["dtype"] for t in interpreter.get_tensor_details()}
    return {
        types[index]
        for operator in interpreter._get_ops_details()
        for index in operator["outputs"]
    }


def steps_apart(interpreter, model, x):
    """Gives how many output steps the file is off, for each element."""
    (given,) = interpreter.get_input_details()
    (got,) = interpreter.get_output_details()
    scale, zero = given["quantization"]
    rows = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
    outputs = []
    for row in rows:
        interpreter.set_tensor(given["index"], row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(got["index"]))
    scale, zero = got["quantization"]
    values = (np.concatenate(outputs).astype("float32") - zero) * scale
    return np.abs(values - model(x, training=False)) / scale


def kernel_in_file(interpreter, shape):
    """Gives the one int8 constant of this shape."""
    found = [
        interpreter.get_tensor(tensor["index"])
        for tensor in interpreter.get_tensor_details()
        if tuple(tensor["shape"]) == shape and tensor["dtype"] == np.int8
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
def test_the_file_computes_in_int8_what_training_simulated(images, tmp_path):
    model = trained(quantize_aware(cnn(), "int8"), images)
    interpreter = interpreted(converted(model, tmp_path))
    assert output_types(interpreter) == {np.int8}
    apart = steps_apart(interpreter, model, images)
    assert (apart < 1.01).mean() >= 0.999


@pytest.mark.slow
def test_stripped_kernels_lie_on_the_grid_and_the_model_is_plain(
    images, tmp_path
):
    model = trained(quantize_aware(cnn(), "int8"), images)
    assert has_quantize_wrappers(model)
    plain = strip(model)
    assert not has_quantize_wrappers(plain) and strip(plain) is plain
    assert [layer.name for layer in plain.layers] == [
        layer.name for layer in cnn().layers
    ]
    assert isinstance(plain.get_layer("hidden"), layers.Dense)
    # One scale for each channel of a convolution, one in all for Dense.
    for name, axes in (
        ("conv", (0, 1, 2)),
        ("depthwise", (0, 1)),
        ("hidden", None),
    ):
        kernel = plain.get_layer(name).get_weights()[0]
        steps = kernel / (np.abs(kernel).max(axes) / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        assert np.abs(steps).max() == pytest.approx(127)
    bias = plain.get_layer("head").get_weights()[1]
    np.testing.assert_array_equal(bias, model.layers[-1].layer.bias)
    plain.save(tmp_path / "plain.keras")
    loaded = tf_keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(loaded(images), plain(images))


def test_the_users_model_is_left_as_it_was(images):
    model = cnn()
    before, outputs = model.get_weights(), model(images)
    trained(quantize_aware(model, "int8"), images)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model(images), outputs)
    assert model.layers[0].output.shape == (None, 6, 6, 4)


def test_a_kernel_before_a_relu_layer_is_rounded_too():
    model = sequential((8,), layers.Dense(16), layers.ReLU())
    (kernel,) = quantize_wrappers(quantize_aware(model, "int8"))[0]._weight_vars
    assert kernel[0].shape == (8, 16)


def test_the_first_batch_sets_the_ranges_and_the_second_counts_half():
    model = quantize_aware(
        sequential((2,), layers.Dense(2, kernel_initializer="identity")),
        "int8",
    )
    wrapper = model.layers[-1]
    variables = wrapper._quantize_activations[0]._post_activation_vars
    model(np.array([[-1.0, 2.0]], "float32"), training=True)
    assert float(variables["min_var"]) == pytest.approx(-1)
    assert float(variables["max_var"]) == pytest.approx(2)
    model(np.array([[-3.0, 4.0]], "float32"), training=True)
    # A step of int8 is 7 / 255 here.
    assert float(variables["min_var"]) == pytest.approx(-2, abs=0.03)
    assert float(variables["max_var"]) == pytest.approx(3, abs=0.03)
    model(np.array([[-9.0, 9.0]], "float32"), training=False)
    assert float(variables["max_var"]) == pytest.approx(3, abs=0.03)


def halved(model, *names):
    """Sets the smaller half of some kernels to zero."""
    for name in names:
        layer = model.get_layer(name)
        kernel, *rest = layer.get_weights()
        kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
        layer.set_weights([kernel, *rest])
    return model


@pytest.mark.slow
def test_zeros_are_still_zeros_after_training_and_in_the_file(images, tmp_path):
    model = halved(cnn(), "conv", "hidden", "depthwise")
    trained_model = trained(quantize_aware(model, "int8"), images)
    plain = strip(trained_model)
    for name in ("conv", "hidden", "depthwise"):
        before = model.get_layer(name).get_weights()[0]
        after = plain.get_layer(name).get_weights()[0]
        assert (before == 0).mean() == 0.5
        assert (after[before == 0] == 0).all()
        assert (after != before).any()
    interpreter = interpreted(converted(trained_model, tmp_path))
    before = model.get_layer("hidden").get_weights()[0]
    written = kernel_in_file(interpreter, (16, 64))
    assert (written.T[before == 0] == 0).all()
    assert len(np.unique(written)) > 50


@pytest.mark.slow
def test_zeros_are_not_kept_where_not_asked(images):
    model = halved(cnn(), "hidden")
    plain = strip(
        trained(quantize_aware(model, "int8", preserve="nothing"), images)
    )
    assert (plain.get_layer("hidden").get_weights()[0] == 0).mean() < 0.2


@pytest.mark.slow
def test_clusters_keep_their_number_in_training_and_in_the_file(
    images, tmp_path
):
    model = sequential(
        (8, 8, 1),
        layers.Conv2D(16, 3, name="conv", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(8, name="hidden"),
    )
    for name in ("conv", "hidden"):
        layer = model.get_layer(name)
        kernel, *rest = layer.get_weights()
        # Six values, zero not among them.
        levels = np.linspace(kernel.min(), kernel.max(), 6)
        nearest = np.abs(kernel[..., None] - levels).argmin(-1)
        layer.set_weights([levels[nearest].astype("float32"), *rest])
    after = trained(quantize_aware(model, "int8"), images)
    plain = strip(after)
    interpreter = interpreted(converted(after, tmp_path))
    for name, shape in (("conv", (16, 3, 3, 1)), ("hidden", (8, 576))):
        old = model.get_layer(name).get_weights()[0]
        new = plain.get_layer(name).get_weights()[0]
        assert len(np.unique(old)) == len(np.unique(new)) == 6
        assert (np.unique(old) != np.unique(new)).any()
        assert len(np.unique(kernel_in_file(interpreter, shape))) == 6


def test_a_kernel_of_zeros_only_is_trained():
    model = sequential((8,), layers.Dense(4, kernel_initializer="zeros"))
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    plain = strip(trained(quantize_aware(model, "int8"), x))
    assert (plain.layers[0].get_weights()[0] != 0).mean() > 0.9


def test_asking_to_preserve_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="must be clusters to preserve"):
        quantize_aware(mlp(), "int8", preserve="clusters")
    with pytest.raises(ValueError, match=r"one of \['auto'.*preserve='mask'"):
        quantize_aware(mlp(), "int8", preserve="mask")


def test_frozen_layers_are_rounded_but_not_trained():
    model = mlp()
    model.layers[0].trainable = False
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    simulated = trained(quantize_aware(model, "int8"), x)
    ((kernel, *_),) = simulated.layers[1]._weight_vars
    np.testing.assert_array_equal(kernel, model.layers[0].kernel)
    assert len(simulated.trainable_weights) == 2
    assert any(weight is kernel for weight in simulated.weights)


def test_a_model_in_a_model_is_written_out(images):
    inner = sequential(
        (8, 8, 1),
        layers.Conv2D(4, 3, name="head"),
        layers.BatchNormalization(),
        layers.Flatten(),
    )
    inputs = layers.Input((8, 8, 1), name="image")
    model = tf_keras.Model(inputs, layers.Dense(4, name="head")(inner(inputs)))
    simulated = trained(quantize_aware(model, "int8"), images)
    assert [w.layer.name for w in quantize_wrappers(simulated)][::3] == [
        "head",
        "head_1",
    ]
    assert simulated.input_names == ["image"]
    assert len(strip(simulated).get_weights()) == len(model.get_weights())


def test_a_norm_after_dense_becomes_part_of_the_kernel():
    model = sequential(
        (3,), layers.Dense(1, use_bias=False), layers.BatchNormalization()
    )
    model.layers[0].set_weights([np.array([[127.0], [-64.0], [0.0]])])
    norm = model.layers[1]
    one = np.ones(1, "float32")
    variance = one * (4 - norm.epsilon)
    norm.set_weights([2 * one, 3 * one, 5 * one, variance])
    kernel, bias = strip(quantize_aware(model, "int8")).get_weights()
    # gamma 2, deviation 2: the kernel stays; the bias is 3 - 5.
    np.testing.assert_allclose(kernel, [[127], [-64], [0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [-2], rtol=1e-6)


class Twice(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_layers_that_tfmot_does_not_know_are_left_and_named():
    inputs = layers.Input((4, 8))
    x = Twice()(layers.Dense(8, name="first")(inputs))
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    outputs = layers.Dense(2, "swish", name="last")(x)
    model = quantize_aware(tf_keras.Model(inputs, outputs), "int8")
    assert left_in_float(model) == {
        "norm": "LayerNormalization is not simulated inside, only its output "
        "is int8",
        "attention": "tfmot knows no MultiHeadAttention with these inputs",
        "last": "the Dense before its 'swish' computes in float",
    }
    batch = np.ones((2, 4, 8), "float32")
    assert strip(trained(model, batch))(batch).shape == (2, 4, 2)


def test_only_selected_kernels_are_rounded():
    model = quantize_aware(mlp(), "int8", select="head")
    rounded = {w.layer.name: bool(w._weight_vars) for w in model.layers[1:]}
    assert rounded == {"hidden": False, "head": True}
    assert list(left_in_float(model)) == ["hidden"]
    with pytest.raises(ValueError, match=r"'haed', which has none.*'head'"):
        quantize_aware(mlp(), "int8", select="haed")


def test_weights_saved_in_training_come_back_exactly(images, tmp_path):
    model = trained(quantize_aware(cnn(), "int8"), images)
    model.save_weights(tmp_path / "m.weights.h5")
    again = quantize_aware(cnn(), "int8")
    again.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(again(images), model(images))


def test_other_schemes_are_refused():
    with pytest.raises(ValueError, match=r"scheme='int4'.*kdtf\.cluster"):
        quantize_aware(mlp(), "int4")


def test_quantizing_twice_is_refused_until_stripped():
    model = quantize_aware(mlp(), "int8")
    with pytest.raises(ValueError, match=r"already trained.*kdtf\.strip"):
        quantize_aware(model, "int8")
    with pytest.raises(ValueError, match="already trained for int8"):
        check_plain(model)
    quantize_aware(strip(model), "int8")
    clustered = tfmot_models.cluster(
        mlp(), 4, initialization="linear", preserve_sparsity=False, select=None
    )
    with pytest.raises(ValueError, match="already clustered"):
        quantize_aware(clustered, "int8")


def test_models_that_cannot_be_wrapped_are_refused():
    class Own(tf_keras.Model):
        pass

    with pytest.raises(ValueError, match="functional and Sequential.*Own"):
        quantize_aware(Own(), "int8")
    with pytest.raises(ValueError, match="never called"):
        quantize_aware(tf_keras.Sequential([layers.Dense(2)]), "int8")
    half = sequential((8,), layers.Dense(4, dtype="mixed_float16"))
    with pytest.raises(ValueError, match="float32 only.*'mixed_float16'"):
        quantize_aware(half, "int8")
    masked = sequential((4,), layers.Embedding(5, 2, mask_zero=True))
    with pytest.raises(ValueError, match="Masks do not get through"):
        quantize_aware(masked, "int8")


def test_a_model_without_ranges_is_told_from_a_trained_one():
    model = quantize_aware(mlp(), "int8")
    with pytest.raises(ValueError, match=r"`model\.fit` first"):
        check_ranges(model)
    model(np.ones((1, 8), "float32"), training=True)
    check_ranges(model)
