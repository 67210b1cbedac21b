"""Does anything seen before training tell which architecture is good?

    python tests/benchmarks/search_proxies.py --data ../shared/data
        [--architectures 100] [--cells 1] [--seeds 200] [--trials 150]

Builds random cells of NAS-Bench-201 as untrained Keras models, with one cell
a stage where the table's have five, and computes zero-cost proxies of each on
one batch of 32 images of CIFAR-10. The first line printed checks that the
table is read as it was meant: its parameters are the cells', and the cells
without a path are those that learned nothing.

The bar is what is free: the parameters and the multiply-accumulates. Both
rank alike here, as a 3x3 convolution costs nine times a 1x1 one in each
stage. "live" counts only what is on a path from input to output; a converter
drops the rest.

The first table is Spearman's correlation with the test accuracy after 200
epochs; the next two are by how much it is above that of the parameters and of
the live operations, on the same resamples. All with the 95% interval of the
bootstrap over the architectures. A proxy is worth its code if its interval
does not overlap that of the parameters in two of the three tasks.

The last are the searches of `search_tabular.py` by evolution over all 15,625
cells, from other first 10 points: random ones, or the 10 that a proxy finds
best in a sample, best first. The sample is 100 of the cells computed, drawn
for each seed, or all if they are no more. From the 11th trial on evolution
goes on as usual, and may leave the sample. "p" is Wilcoxon's signed-rank test
against the random start, one-sided, "p free" against the start from the 10
with the most live operations, two-sided. A proxy's own time is not counted.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import scipy.stats
import tensorflow as tf
from nas_bench import NONE
from nas_bench import SIDE
from nas_bench import Builder
from nas_bench import count_macs
from nas_bench import count_parameters
from nas_bench import live_edges
from search_tabular import TASKS
from search_tabular import load
from search_tabular import search
from search_tabular import standard_error

from kdtf.search.evolution import Evolution

BATCH = 32
NUM_FIRST = 10
SAMPLE = 100
FREE = "parameters", "live MACs"
SHOWN = 10, 25, 50, 100, 150


def kernels(model):
    return [
        layer.kernel
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]


def synflow(model):
    """Sums |weight times gradient| of all signs made positive.

    Tanaka et al. 2020, https://arxiv.org/abs/2006.05467
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

    Abdelfattah et al. 2021, https://arxiv.org/abs/2101.08134
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

    Mellor et al. 2021, https://arxiv.org/abs/2006.04647
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
    gradient = tape.gradient(total, x)
    if gradient is None:  # No path from the input to the output.
        return -np.inf
    jacobian = gradient.numpy().reshape(len(x), -1)
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
        model = build(cell)
        # Without normalization, five cells a stage overflow float32.
        keras.config.set_dtype_policy("float64")
        plain = build_plain(cell)
        keras.config.set_dtype_policy("float32")
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
    for free in FREE:
        print(f"\n{'above ' + free:16}{titles[1:]}")
        for name in scores:
            if name == free:
                continue
            cells = "".join(
                _interval(
                    *map(np.subtract, found[name][task], found[free][task])
                )
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
            if name != "MACs"
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
