"""Does anything seen before training tell which architecture is good?

    python tests/benchmarks/search_proxies.py --data ../shared/data
        [--architectures 100] [--cells 1] [--seeds 200] [--trials 150]

Builds random cells of NAS-Bench-201 as untrained Keras models, with one cell
a stage where the table's have five, and computes zero-cost proxies of each on
one batch of 32 images of CIFAR-10. The bar is what is free: the parameters
and the multiply-accumulates. In this space both rank alike: a 3x3 convolution
costs nine times a 1x1 one in each stage. "live" counts those alone that are
on a path from input to output; a converter drops the others.

The first table is Spearman's correlation with the test accuracy after 200
epochs; the second is by how much it is above that of the parameters, on the
same resamples. Both with the 95% interval of the bootstrap over the
architectures. A proxy "beats" a count if the intervals of the first table do
not overlap, or, the weaker claim, if that of the second is above zero.

The third is the search of `search_tabular.py` by evolution over all 15,625
cells, from other first 10 points: random ones, or the 10 that a proxy finds
best in a sample, best first. The sample is 100 of the cells computed, drawn
for each seed, or all if they are no more. From the 11th trial on evolution
goes on as usual, and may leave the sample. "p" is Wilcoxon's signed-rank test
against the random start, one-sided, "p free" against the start from the 10
with the most live operations, two-sided. A proxy's own time is not counted.

The table's operations are none, skip, 1x1 and 3x3 convolution and average
pooling; its edges are 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3. The first line printed
checks that: parameters of our formula against the table's, and cells without
a path against those that learned nothing. 150 rows of the table have one
convolution more or less than their cell.
"""

import argparse
import dataclasses
import pathlib
import time

import keras
import numpy as np
import scipy.stats
import tensorflow as tf
from search_tabular import TASKS
from search_tabular import load
from search_tabular import search
from search_tabular import standard_error

from kdtf.search.evolution import Evolution

NONE, SKIP, CONV1, CONV3, POOL = range(5)
EDGES = (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)
PATHS = (3,), (0, 4), (1, 5), (0, 2, 5)
CHANNELS = 16, 32, 64
SIDE = 32
BATCH = 32
NUM_CLASSES = 10
NUM_FIRST = 10
SAMPLE = 100
SHOWN = 10, 25, 50, 100, 150


@dataclasses.dataclass(frozen=True)
class Builder:
    """Builds a cell's network; `normalize=False` is without batch norm."""

    cells: int
    normalize: bool = True

    def __call__(self, cell):
        """Returns a model of the logits and of what each ReLU gave."""
        relus: list = []
        image = keras.Input((SIDE, SIDE, 3))
        x = self._convolved(image, CHANNELS[0], 3)
        for stage, channels in enumerate(CHANNELS):
            if stage:
                x = self._reduced(x, channels, relus)
            for _ in range(self.cells):
                x = self._cell(x, cell, relus)
        x = _relu(self._normalized(x), relus)
        x = keras.layers.GlobalAveragePooling2D()(x)
        logits = keras.layers.Dense(NUM_CLASSES, name="logits")(x)
        return keras.Model(image, [logits, *relus])

    def _normalized(self, x):
        return keras.layers.BatchNormalization()(x) if self.normalize else x

    def _convolved(self, x, channels, side, strides=1):
        x = keras.layers.Conv2D(
            channels, side, strides, padding="same", use_bias=False
        )(x)
        return self._normalized(x)

    def _reduced(self, x, channels, relus):
        main = self._convolved(_relu(x, relus), channels, 3, strides=2)
        main = self._convolved(_relu(main, relus), channels, 3)
        short = keras.layers.AveragePooling2D(2)(x)
        short = keras.layers.Conv2D(channels, 1, use_bias=False)(short)
        return main + short

    def _cell(self, x, cell, relus):
        nodes = [x]
        for node in range(1, 4):
            incoming = [
                self._edge(nodes[start], operation, relus)
                for (start, end), operation in zip(EDGES, cell, strict=True)
                if end == node
            ]
            nodes.append(sum(incoming[1:], start=incoming[0]))
        return nodes[-1]

    def _edge(self, x, operation, relus):
        if operation == NONE:
            return keras.ops.zeros_like(x)
        if operation == SKIP:
            return x
        if operation == POOL:
            return keras.layers.AveragePooling2D(3, 1, padding="same")(x)
        side = 1 if operation == CONV1 else 3
        return self._convolved(_relu(x, relus), x.shape[-1], side)


def _relu(x, relus):
    x = keras.layers.ReLU()(x)
    relus.append(x)
    return x


def live_edges(cells):
    """Returns whether each edge is on a path, shape `(cells, 6)`."""
    connected = cells != NONE
    live = np.zeros(cells.shape, bool)
    for path in PATHS:
        whole = connected[:, path].all(1)
        live[:, path] |= whole[:, None]
    return live


def count_parameters(cells, num_cells):
    """Returns the weights that are trained, for 10 classes."""
    total = np.full(len(cells), 0)
    for channels in CHANNELS:
        for operation, side in (CONV1, 1), (CONV3, 3):
            each = side**2 * channels**2 + 2 * channels
            total += num_cells * each * (cells == operation).sum(1)
    first, last = CHANNELS[0], CHANNELS[-1]
    total += 27 * first + 2 * first + 2 * last + (last + 1) * NUM_CLASSES
    for before, after in zip(CHANNELS, CHANNELS[1:], strict=False):
        total += 10 * before * after + 9 * after**2 + 4 * after
    return total


def count_macs(operations, num_cells):
    """Returns the cells' multiply-accumulates; the rest is a constant."""
    return sum(
        num_cells
        * (SIDE >> stage) ** 2
        * channels**2
        * (9 * (operations == CONV3).sum(1) + (operations == CONV1).sum(1))
        for stage, channels in enumerate(CHANNELS)
    )


def kernels(model):
    return [
        layer.kernel
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]


def synflow(model):
    """Sums |weight times gradient| of all signs made positive.

    Tanaka et al. 2020, https://arxiv.org/abs/2006.05467 (equation 2)
    """
    weights = kernels(model)
    signed = [kernel.numpy() for kernel in weights]
    try:
        for kernel in weights:
            kernel.assign(keras.ops.abs(kernel))
        with tf.GradientTape() as tape:
            logits = model(np.ones((1, SIDE, SIDE, 3), "float32"))[0]
            total = tf.reduce_sum(logits)
        gradients = tape.gradient(total, [one.value for one in weights])
        return sum(
            float(np.abs(kernel.numpy() * gradient.numpy()).sum(dtype=float))
            for kernel, gradient in zip(weights, gradients, strict=True)
            if gradient is not None
        )
    finally:
        for kernel, value in zip(weights, signed, strict=True):
            kernel.assign(value)


def grad_norm(model, x, y):
    """Sums the norms of the loss's gradients, by kernel.

    Abdelfattah et al. 2021, https://arxiv.org/abs/2101.08134 (section 3.2)
    """
    with tf.GradientTape() as tape:
        logits = model(x, training=True)[0]
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        loss = tf.reduce_mean(loss)
    gradients = tape.gradient(loss, [one.value for one in kernels(model)])
    return sum(
        float(tf.norm(one, ord=2)) for one in gradients if one is not None
    )


def naswot(model, x):
    """Returns log |det K|, K how many ReLUs two images have in common.

    Mellor et al. 2021, https://arxiv.org/abs/2006.04647 (equation 2)
    """
    kernel = np.zeros((len(x), len(x)))
    for outputs in model(x, training=True)[1:]:
        code = outputs.numpy().reshape(len(x), -1) > 0
        signs = np.where(code, 1, -1).astype("float32")
        # Half of (width + agreements - differences), all whole numbers.
        kernel += (signs.shape[1] + signs @ signs.T) / 2
    return float(np.linalg.slogdet(kernel)[1])


def jacob_cov(model, x):
    """Scores how little the input's gradients of two images correlate.

    Mellor et al. 2020, https://arxiv.org/abs/2006.04647v1
    """
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(model(x, training=True)[0])
    jacobian = tape.gradient(total, x).numpy().reshape(len(x), -1)
    if not jacobian.std(1).all():
        return -np.inf
    values = np.linalg.eigvalsh(np.corrcoef(jacobian)) + 1e-5
    # Rounding alone makes one of a singular matrix negative.
    values = np.maximum(values, 1e-5)
    return -float(np.sum(np.log(values) + 1 / values))


def load_batch(folder, rng):
    """Returns images with mean 0 and variance 1 by channel, and labels."""
    with np.load(folder / "cifar10_small.npz", allow_pickle=False) as arrays:
        images = arrays["x_train"].astype("float32")
        rows = rng.choice(len(images), BATCH, replace=False)
        mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
        labels = arrays["y_train"][rows].astype("int32")
    return (images[rows] - mean) / std, labels


def compute(cells, num_cells, batch):
    """Returns by proxy the scores and the seconds, and those to build."""
    x, y = batch
    build, build_plain = Builder(num_cells), Builder(num_cells, False)
    proxies = {
        "synflow": lambda model, plain: synflow(plain),
        "grad_norm": lambda model, plain: grad_norm(model, x, y),
        "naswot": lambda model, plain: naswot(model, x),
        "jacob_cov": lambda model, plain: jacob_cov(model, x),
    }
    scores = {name: np.empty(len(cells)) for name in proxies}
    seconds = dict.fromkeys(["build", *proxies], 0.0)
    counts = count_parameters(cells, num_cells)
    for i, cell in enumerate(cells):
        keras.utils.set_random_seed(i)
        start = time.perf_counter()
        model, plain = build(cell), build_plain(cell)
        seconds["build"] += time.perf_counter() - start
        num_parameters = sum(
            int(np.prod(one.shape)) for one in model.trainable_weights
        )
        if num_parameters != counts[i]:
            raise RuntimeError(f"{cell}: {num_parameters}, not {counts[i]}")
        for name, proxy in proxies.items():
            start = time.perf_counter()
            scores[name][i] = proxy(model, plain)
            seconds[name] += time.perf_counter() - start
        keras.backend.clear_session()
    return scores, {name: one / len(cells) for name, one in seconds.items()}


def correlations(scores, accuracies, resamples):
    """Returns Spearman's correlation on all and on each resample."""

    def spearman(a, b):
        a, b = scipy.stats.rankdata([a, b], axis=-1)
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))

    return (
        spearman(scores, accuracies),
        spearman(scores[resamples], accuracies[resamples]),
    )


def print_correlations(scores, seconds, accuracies, rng):
    num = len(next(iter(scores.values())))
    resamples = rng.integers(num, size=(2000, num))
    found = {
        name: {
            task: correlations(values, accuracies[task], resamples)
            for task in TASKS
        }
        for name, values in scores.items()
    }
    titles = "".join(f"{title:>22}" for title in TASKS.values())
    print(f"\nSpearman, [95%]{titles}{'ms':>8}")
    for name in scores:
        cells = "".join(_interval(*found[name][task]) for task in TASKS)
        spent = f"{1000 * seconds[name]:8.0f}" if name in seconds else ""
        print(f"{name:15}{cells}{spent:>8}")
    print(f"\nabove parameters{titles[1:]}")
    free = found.pop("parameters")
    for name in found:
        cells = "".join(
            _interval(*(a - b for a, b in zip(found[name][task], free[task])))
            for task in TASKS
        )
        print(f"{name:15}{cells}")


def _interval(value, resampled):
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{value:8.2f} [{low:5.2f},{high:5.2f}]"


class Started:
    """Evolution, after the given points."""

    def __init__(self, points):
        self.points = points
        self.strategy = Evolution()

    def propose(self, space, history, *, rng, attempt=0):
        if len(history) < len(self.points):
            return self.points[len(history)]
        return self.strategy.propose(space, history, rng=rng, attempt=attempt)


def searched(scores, cells, table, arguments):
    """Returns regrets `(seeds, trials)` of evolution from the best."""
    runs = []
    for seed in range(arguments.seeds):
        points = []
        if scores is not None:
            rng = np.random.default_rng([seed, 2])
            # Shuffled, so that ties fall by chance.
            sample = rng.permutation(len(cells))[:SAMPLE]
            order = np.argsort(-scores[sample], kind="stable")[:NUM_FIRST]
            points = [tuple(map(int, cells[i])) for i in sample[order]]
        runs.append(
            search(Started(points), table, trials=arguments.trials, seed=seed)
        )
    return np.array([regrets for regrets, _ in runs])


def print_searches(scores, cells, tables, arguments):
    shown = [n for n in SHOWN if n <= arguments.trials]
    for task, title in TASKS.items():
        after = "".join(f"{f'after {n}':>15}" for n in shown)
        print(
            f"\n{title}, regret in points, {arguments.seeds} seeds\n"
            f"{'first 10 from':15}{after}{'p at ' + str(shown[-1]):>12}"
            f"{'p free':>10}"
        )
        found = {
            name: searched(values, cells, tables[task], arguments)
            for name, values in {"random": None, **scores}.items()
        }
        for name, regrets in found.items():
            last = regrets[:, shown[-1] - 1]
            line = "".join(
                f"{regrets[:, n - 1].mean():8.2f} ±"
                f"{standard_error(regrets[:, n - 1]):5.3f}"
                for n in shown
            )
            line += f"{_p(last, found['random'], shown, 'less'):>12}"
            free = found["live MACs"]
            line += f"{_p(last, free, shown, 'two-sided'):>10}"
            print(f"{name:15}{line}", flush=True)


def _p(last, baseline, shown, alternative):
    better = last - baseline[:, shown[-1] - 1]
    if not better.any():
        return "-"
    test = scipy.stats.wilcoxon(better, alternative=alternative)
    return f"{test.pvalue:.1e}"


def print_check(folder):
    """Compares our reading of the table with what it says."""
    with np.load(folder / "nas_bench_201.npz", allow_pickle=False) as arrays:
        cells = arrays["arch"].astype(int)
        said = np.rint(1e6 * arrays["cifar10_params"].astype(float))
        learned = arrays["cifar10_test200"] > 10.01
    # The table's millions are float32: up to one parameter off.
    equal = np.abs(count_parameters(cells, 5) - said) < 2
    agree = live_edges(cells).any(1) == learned
    print(
        f"{equal.sum()} of {len(cells)} cells have the table's parameters, "
        f"{agree.sum()} a path just if they learned"
    )
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=int, default=100)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    cells = rng.permutation(print_check(arguments.data))
    cells = cells[: arguments.architectures]
    tables = load(arguments.data)
    place = tuple(cells.T)
    accuracies = {task: test[place] for task, (_, test) in tables.items()}
    start = time.perf_counter()
    batch = load_batch(arguments.data, rng)
    proxies, seconds = compute(cells, arguments.cells, batch)
    print(
        f"{len(cells)} architectures, {arguments.cells} cells a stage, "
        f"{time.perf_counter() - start:.0f} s; to build two models "
        f"{1000 * seconds['build']:.0f} ms"
    )
    live = np.where(live_edges(cells), cells, NONE)
    scores = {
        "parameters": count_parameters(cells, arguments.cells),
        "MACs": count_macs(cells, arguments.cells),
        "live MACs": count_macs(live, arguments.cells),
        **proxies,
    }
    print_correlations(scores, seconds, accuracies, rng)
    print_searches(scores, cells, tables, arguments)


if __name__ == "__main__":
    main()
