"""Draws small architectures of all kinds, odd ones included, by seed."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tf_keras

FLAVOURS = {"keras": keras, "tf_keras": tf_keras}
ACTIVATIONS = """
celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh
leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu
soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid sparsemax
squareplus tanh tanh_shrink
""".split()
OPERATIONS = """
abs cos cumsum exp flip floor maximum_0 mean negative round rsqrt_square sign
sin slice split square strided sum tile transpose where
""".split()
# What a value may grow to; more is time, not variety.
MAX_ELEMENTS = 3000


@dataclasses.dataclass
class Drawn:
    """A model, how it was made, and samples it takes by input name."""

    model: Any
    flavour: str
    steps: list[str]
    samples: dict[str, np.ndarray]


class Drawer:
    """Grows a graph: each step reads one or two values and adds one."""

    def __init__(self, seed, flavour):
        self.rng = np.random.default_rng(seed)
        self.flavour = flavour
        self.layers = FLAVOURS[flavour].layers
        self.values = []
        self.steps = []

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def chance(self, probability):
        return self.rng.random() < probability

    def size(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def draw(self, num_samples=20):
        inputs, samples = {}, {}
        for index in range(self.pick(1, 1, 1, 2, 2, 3)):
            name = self.pick(f"x{index}", f"in {index}", f"Größe {index}")
            if self.flavour == "tf_keras":
                name = f"x{index}"
            value, array = self.new_input(name, num_samples)
            inputs[name], samples[name] = value, array
        wanted = self.size(1, 9)
        for _ in range(20 * wanted):
            if len(self.steps) >= wanted:
                break
            self.step()
        return inputs, samples

    def new_input(self, name, num_samples):
        make = FLAVOURS[self.flavour].Input
        if self.chance(0.2):
            num_words, shape = self.size(2, 20), (self.size(1, 9),)
            ids = make(shape, dtype="int32", name=name)
            width = self.size(1, 8)
            self.values.append(self.layers.Embedding(num_words, width)(ids))
            self.steps.append("Embedding")
            array = self.rng.integers(0, num_words, (num_samples, *shape))
            return ids, array.astype("int32")
        rank = self.pick(1, 2, 2, 3, 3, 3, 4)
        high = {1: 16, 2: 12, 3: 12, 4: 5}[rank]
        shape = tuple(self.size(1, high) for _ in range(rank - 1))
        shape += (self.size(1, 6),)
        is_free = rank == 2 and self.chance(0.2)
        value = make((None, shape[1]) if is_free else shape, name=name)
        self.values.append(value)
        array = self.rng.normal(size=(num_samples, *shape))
        return value, array.astype("float32")

    def step(self):
        value = self.values[-1]
        if self.chance(0.4):
            value = self.values[self.rng.integers(len(self.values))]
        kinds = [self.any_rank, self.any_rank, self.join]
        by_rank = {2: self.rank_2, 3: self.rank_3, 4: self.rank_4}
        own = by_rank.get(len(value.shape), self.rank_5)
        if len(value.shape) > 1:
            kinds += [own] * 4
        try:
            result, said = self.pick(*kinds)(value)
        except Exception:
            # Keras itself refuses it, in many ways, or lacks the layer.
            return
        shape = result.shape[1:]
        known = [dim for dim in shape if dim is not None]
        if any(dim < 1 for dim in known) or np.prod(known) > MAX_ELEMENTS:
            return
        self.values.append(result)
        self.steps.append(said)

    def use(self, name, value, *arguments, **options):
        layer = getattr(self.layers, name)(*arguments, **options)
        listed = [
            *map(str, arguments),
            *(f"{k}={v}" for k, v in options.items()),
        ]
        return layer(value), f"{name}({', '.join(listed)})"

    def activation(self):
        return self.pick("linear", "relu", "tanh", "relu6", "gelu", "silu")

    def any_rank(self, x):
        name = self.pick(
            *["Activation"] * 3,
            *["operation"] * 3,
            "BatchNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "UnitNormalization",
            "RMSNormalization",
            "Dropout",
            "GaussianNoise",
            "Rescaling",
            "PReLU",
            "LeakyReLU",
            "ReLU",
            "Softmax",
            "Flatten",
            "Reshape",
            "Permute",
            "Dense",
            "residual",
        )
        rank, width = len(x.shape), x.shape[-1]
        if name == "Activation":
            return self.use(name, x, self.pick(*ACTIVATIONS))
        if name == "operation":
            return self.operation(x)
        if name == "GroupNormalization":
            groups = self.pick(1, -1, width)
            return self.use(name, x, groups=groups)
        if name in ("Dropout", "GaussianNoise"):
            return self.use(name, x, 0.3)
        if name == "Rescaling":
            return self.use(name, x, 1 / 255, offset=self.pick(0.0, -0.5))
        if name == "ReLU":
            limits = {"max_value": self.pick(None, 3.0, 6.0)}
            limits["negative_slope"] = self.pick(0.0, 0.1)
            return self.use(name, x, **limits)
        if name == "Softmax":
            return self.use(name, x, axis=self.pick(*range(1, rank)))
        if name == "Reshape":
            sizes = [int(dim) for dim in x.shape[1:]]
            order = self.rng.permutation(len(sizes))
            options = [(int(np.prod(sizes)),), tuple(sizes[i] for i in order)]
            options.append((*sizes, 1))
            return self.use(name, x, options[self.size(0, 2)])
        if name == "Permute":
            dims = self.rng.permutation(rank - 1) + 1
            return self.use(name, x, tuple(map(int, dims)))
        if name == "Dense":
            activation = self.activation()
            return self.use(
                name, x, self.size(1, 16), activation, self.chance(0.7)
            )
        if name == "residual":
            y = self.layers.Dense(width, activation="relu")(x)
            return self.layers.Add()([x, y]), "residual"
        return self.use(name, x)

    def operation(self, x):
        if self.flavour == "tf_keras":
            return self.use("Activation", x, "relu")
        name, ops = self.pick(*OPERATIONS), keras.ops
        axis = self.size(1, len(x.shape) - 1)
        keep = self.chance(0.5)
        made = {
            "maximum_0": lambda: ops.maximum(x, 0.0),
            "rsqrt_square": lambda: ops.rsqrt(ops.square(x) + 0.1),
            "cumsum": lambda: ops.cumsum(x, axis=axis),
            "flip": lambda: ops.flip(x, axis=axis),
            "mean": lambda: ops.mean(x, axis=axis, keepdims=keep),
            "sum": lambda: ops.sum(x, axis=axis, keepdims=keep),
            "slice": lambda: x[:, : max(x.shape[1] // 2, 1)],
            "strided": lambda: x[..., ::2],
            "split": lambda: ops.split(x, 2, axis=axis)[0],
            "tile": lambda: ops.tile(x, [1] * (len(x.shape) - 1) + [2]),
            "transpose": lambda: ops.swapaxes(x, 1, -1),
            "where": lambda: ops.where(x > 0, x, x * 0.5),
        }
        result = made.get(name, lambda: getattr(ops, name)(x))()
        return result, f"ops.{name}"

    def join(self, x):
        name = self.pick(
            "Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average",
            "Concatenate", "Dot",
        )  # fmt: skip
        same = [v for v in self.values if tuple(v.shape) == tuple(x.shape)]
        other = same[self.rng.integers(len(same))]
        if name == "Dot":
            return self.use(name, [x, other], axes=len(x.shape) - 1)
        if name == "Concatenate":
            axis = self.size(1, len(x.shape) - 1)
            return self.use(name, [x, other], axis=axis)
        return self.use(name, [x, other])

    def window(self, rank):
        return {
            "kernel_size": tuple(self.size(1, 3) for _ in range(rank)),
            "padding": self.pick("same", "valid"),
            **self.pick(
                {}, {}, {"strides": 2}, {"dilation_rate": self.size(1, 3)}
            ),
            "activation": self.activation(),
            "use_bias": self.chance(0.7),
        }

    def pool(self, rank):
        return {
            "pool_size": self.size(1, 3),
            "strides": self.pick(None, 1, 2),
            "padding": self.pick("same", "valid"),
        }

    def convolution(self, x, rank):
        kind = self.pick("Conv", "Conv", "Depthwise", "Separable", "Transpose")
        options, filters = self.window(rank), self.size(1, 8)
        if kind == "Conv":
            width = x.shape[-1]
            if width % 2 == 0 and self.chance(0.2):
                return self.use(f"Conv{rank}D", x, 4, groups=2, **options)
            return self.use(f"Conv{rank}D", x, filters, **options)
        if kind == "Transpose":
            return self.use(f"Conv{rank}DTranspose", x, filters, **options)
        if kind == "Separable":
            return self.use(f"SeparableConv{rank}D", x, filters, **options)
        options["depth_multiplier"] = self.size(1, 2)
        return self.use(f"DepthwiseConv{rank}D", x, **options)

    def spatial(self, x, rank):
        """Draws what exists for one, two and three dimensions alike."""
        name = self.pick(
            "MaxPooling", "AveragePooling", "GlobalMaxPooling",
            "GlobalAveragePooling", "ZeroPadding", "Cropping", "UpSampling",
        )  # fmt: skip
        full = f"{name}{rank}D"
        if name in ("MaxPooling", "AveragePooling"):
            return self.use(full, x, **self.pool(rank))
        if name.startswith("Global"):
            return self.use(full, x, keepdims=self.chance(0.3))
        if name == "UpSampling" and rank == 2:
            how = self.pick("nearest", "bilinear")
            return self.use(full, x, self.size(1, 2), interpolation=how)
        return self.use(full, x, self.size(1, 2))

    def rank_2(self, x):
        kind = self.pick("Dense", "RepeatVector", "Reshape", "EinsumDense")
        if kind == "Dense":
            return self.use(kind, x, self.size(1, 24), self.activation())
        if kind == "RepeatVector":
            return self.use(kind, x, self.size(1, 5))
        if kind == "EinsumDense":
            shape = (self.size(1, 3), self.size(1, 5))
            return self.use(kind, x, "ab,bcd->acd", output_shape=shape)
        width = x.shape[-1]
        parts = [n for n in (1, 2, 3, 4) if width % n == 0]
        first = self.pick(*parts)
        shape = self.pick((first, -1), (1, first, width // first))
        return self.use(kind, x, shape)

    def rank_3(self, x):
        kind = self.pick("convolution", "spatial", "recurrent", "attention")
        if kind in ("convolution", "spatial"):
            return getattr(self, kind)(x, 1)
        if kind == "recurrent":
            name = self.pick("LSTM", "GRU", "SimpleRNN")
            options = {
                "return_sequences": self.chance(0.5),
                "go_backwards": self.chance(0.2),
            }
            if self.chance(0.25):
                options.pop("go_backwards")
                cell = getattr(self.layers, name)(self.size(1, 6), **options)
                return self.layers.Bidirectional(cell)(
                    x
                ), f"Bidirectional {name}"
            return self.use(name, x, self.size(1, 8), **options)
        name = self.pick(
            "MultiHeadAttention", "GroupQueryAttention", "Attention",
            "AdditiveAttention", "TimeDistributed",
        )  # fmt: skip
        if name == "TimeDistributed":
            dense = self.layers.Dense(self.size(1, 8))
            return self.layers.TimeDistributed(dense)(x), name
        if name == "MultiHeadAttention":
            layer = self.layers.MultiHeadAttention(self.size(1, 3), 4)
            mask = self.flavour == "keras" and self.chance(0.3)
            return layer(x, x, use_causal_mask=mask), f"{name} causal={mask}"
        if name == "GroupQueryAttention":
            return self.layers.GroupQueryAttention(4, 4, 2)(x, x), name
        return self.use(name, [x, x])

    def rank_4(self, x):
        kind = self.pick("convolution", "convolution", "spatial", "rest")
        if kind != "rest":
            return getattr(self, kind)(x, 2)
        if self.chance(0.3):
            return self.use("ConvLSTM1D", x, 2, 2, padding="same")
        if self.chance(0.5):
            size = (self.size(1, 12), self.size(1, 12))
            return self.use("Resizing", x, *size)
        return self.use("SpatialDropout2D", x, 0.2)

    def rank_5(self, x):
        if self.chance(0.5):
            name = self.pick("Conv3D", "Conv3DTranspose")
            options = self.window(3)
            options.pop("dilation_rate", None)
            return self.use(name, x, self.size(1, 4), **options)
        return self.spatial(x, 3)


def draw_model(seed):
    """Returns the architecture of a seed, with lively weights."""
    rng = np.random.default_rng([seed, 1])
    flavour = "tf_keras" if rng.random() < 0.15 else "keras"
    package = FLAVOURS[flavour]
    package.utils.set_random_seed(seed)
    drawer = Drawer(seed, flavour)
    inputs, samples = drawer.draw()
    outputs = [drawer.values[-1]]
    while len(drawer.values) > 1 and rng.random() < 0.25:
        extra = drawer.values[rng.integers(len(drawer.values))]
        if not any(extra is value for value in outputs):
            outputs.append(extra)
    named = {f"out {i}": value for i, value in enumerate(outputs)}
    if len(outputs) == 1:
        given = outputs[0]
    else:
        given = named if rng.random() < 0.5 else outputs
    flat = list(inputs.values())
    model = package.Model(flat[0] if len(flat) == 1 else flat, given)
    _liven(model, rng)
    return Drawn(model, flavour, drawer.steps, samples)


def _liven(model, rng):
    """Moves the weights that start as 0 or 1, which hide mistakes."""
    for weight in model.weights:
        value = np.array(weight)
        if value.dtype.kind != "f":
            continue
        if "variance" in weight.name:
            value = value * rng.uniform(0.5, 2.0, value.shape)
        elif len(np.unique(value)) <= 1:
            value = value + rng.normal(0.0, 0.2, value.shape)
        weight.assign(value)
