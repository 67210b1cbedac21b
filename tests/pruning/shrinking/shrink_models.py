"""Random graphs of layers, and the zeroing of what a plan removes."""

import keras
import numpy as np
from keras import layers


def random_model(seed):
    """Returns a model of some 6 to 12 layers: images, or sequences."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    build = _sequences if rng.random() < 0.4 else _images
    model = build(rng)
    for weight in model.weights:
        # Variances of batch norms are positive.
        weight.assign(rng.uniform(0.1, 1.0, weight.shape))
        if "variance" not in weight.path:
            weight.assign(rng.normal(0.0, 0.4, weight.shape))
    return model


def _pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def _width(rng):
    return int(rng.integers(2, 7))


def _activation(rng):
    return _pick(rng, None, "relu", "gelu", "sigmoid", "softmax")


def _images(rng):
    inputs = keras.Input((6, 6, 3))
    pool = [layers.Conv2D(_width(rng), 3, padding="same")(inputs)]
    for _ in range(rng.integers(3, 8)):
        x = pool[rng.integers(len(pool))]
        pool.append(_image_layer(rng, x, pool))
    x = pool[-1]
    if rng.random() < 0.3:
        x = layers.Concatenate()([x, _same_place(pool, x)])
    x = _pick(
        rng,
        layers.Flatten(),
        layers.GlobalAveragePooling2D(),
        layers.GlobalMaxPooling2D(),
        layers.Reshape((-1,)),
    )(x)
    x = layers.Dense(_width(rng), activation=_activation(rng))(x)
    outputs = [layers.Dense(2, activation=_activation(rng))(x)]
    if rng.random() < 0.3:
        outputs.append(layers.Dense(3)(layers.Flatten()(pool[-2])))
    return keras.Model(inputs, outputs)


def _same_place(pool, x):
    """Returns a tensor with the same positions: perhaps the same one."""
    return next(t for t in pool if t.shape[1:-1] == x.shape[1:-1])


def _image_layer(rng, x, pool):
    other = _same_place(pool, x)
    kind = rng.integers(15)
    if kind == 0 and other.shape == x.shape:
        return _pick(rng, layers.Add(), layers.Multiply(), layers.Maximum())(
            [x, other]
        )
    if kind == 1:
        return layers.Concatenate()([x, other])
    if kind == 2:
        return layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=int(rng.integers(1, 3))
        )(x)
    if kind == 3:
        return layers.SeparableConv2D(
            _width(rng), 3, padding="same", depth_multiplier=2
        )(x)
    if kind == 4:
        return layers.Conv2DTranspose(_width(rng), 2, padding="same")(x)
    if kind == 5:
        # Squeeze and excite.
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Dense(x.shape[-1], activation="sigmoid")(gate)
        return layers.Multiply()([x, gate])
    if kind == 6 and x.shape[1] > 2:
        return _pick(rng, layers.MaxPooling2D(), layers.AveragePooling2D(2))(x)
    if kind == 7:
        return layers.BatchNormalization()(x)
    if kind == 8:
        return _pick(
            rng,
            layers.PReLU(shared_axes=[1, 2]),
            layers.PReLU(),
            layers.LeakyReLU(),
            layers.Activation("tanh"),
        )(x)
    if kind == 9:
        return layers.LayerNormalization()(x)
    if kind == 10:
        return keras.ops.relu(x) + 1.5
    if kind == 11:
        # Attention over places, broadcast over channels.
        return x * layers.Conv2D(1, 1, activation="sigmoid")(x)
    if kind == 12:
        branch = keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                layers.Conv2D(_width(rng), 1, activation="relu"),
                layers.Conv2D(x.shape[-1], 1),
            ]
        )
        return layers.Add()([x, branch(x)])
    return layers.Conv2D(
        _width(rng), 3, padding="same", activation=_activation(rng)
    )(x)


def _sequences(rng):
    if rng.random() < 0.5:
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(10, _width(rng))(inputs)
    else:
        inputs = keras.Input((6, 3))
        x = layers.Dense(_width(rng))(inputs)
    for _ in range(rng.integers(2, 6)):
        x = _sequence_layer(rng, x)
    x = _pick(
        rng,
        layers.Flatten(),
        layers.GlobalAveragePooling1D(),
        layers.GRU(_width(rng)),
    )(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def _sequence_layer(rng, x):
    kind = rng.integers(10)
    if kind == 0:
        heads = int(rng.integers(2, 4))
        return x + layers.MultiHeadAttention(heads, 2)(x, x)
    if kind == 1:
        y = layers.Dense(_width(rng), activation="gelu")(x)
        return x + layers.Dense(x.shape[-1])(y)
    if kind == 2:
        cell = _pick(rng, layers.LSTM, layers.GRU, layers.SimpleRNN)
        return cell(_width(rng), return_sequences=True)(x)
    if kind == 3:
        return layers.Permute((2, 1))(x)
    if kind == 4:
        return layers.Conv1D(_width(rng), 2, padding="causal")(x)
    if kind == 5:
        return layers.SeparableConv1D(_width(rng), 2, padding="same")(x)
    if kind == 6 and x.shape[1] % 2 == 0:
        return layers.Reshape((x.shape[1] // 2, 2 * x.shape[2]))(x)
    if kind == 7 and x.shape[2] % 2 == 0:
        return layers.Reshape((2 * x.shape[1], x.shape[2] // 2))(x)
    if kind == 8:
        shared = layers.Dense(x.shape[-1])
        return shared(layers.Dropout(0.1)(shared(x)))
    return layers.Dense(_width(rng), activation=_activation(rng))(x)


def zero_what_goes(plan):
    """Sets all weights of the removed groups to 0 in the plan's model."""
    for slicing in plan.removal.trace.slicings:
        layer = plan.model
        for name in slicing.layer:
            layer = layer.get_layer(name)
        value = layer.weights[slicing.weight].numpy()
        for axis, atoms in slicing.axes.items():
            value[(slice(None),) * axis + (~plan.removal.kept[atoms],)] = 0.0
        layer.weights[slicing.weight].assign(value)


def inputs_of(model, rng, rows=3):
    shape = (rows, *model.inputs[0].shape[1:])
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 10, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")
