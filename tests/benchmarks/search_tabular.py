"""Search strategies on NAS-Bench-201, where every model is measured already.

    python tests/benchmarks/search_tabular.py --data ../shared/data
        [--seeds 100] [--slow-seeds 20] [--trials 150] [--strategies random tpe]

Each trial shows the strategy the validation accuracy of one training run, one
of the table's drawn at random, as a real search would see it. What it picks
after some trials is the best by what it saw; the regret is how far the mean
test accuracy of that model is below the best test accuracy there is, in
points. A model is tried once: a proposal that was tried is refused, as the
search does it. All strategies have the same budget, and for an equal seed the
same draws; "p" is Wilcoxon's signed-rank test against random search over the
seeds that both have, one-sided.

"earlier" is what prototypes of ours measured on the same table (TPE and
NSGA-II on 40 seeds, the others on 100 or more) after 150 trials; NSGA-II's
had a population of 20, others proposed models that they had tried. "ok" means
that our mean is lower, or within two of our standard errors. TPE and NSGA-II
are slow, so they have fewer seeds.
"""

import argparse
import concurrent.futures
import pathlib
import time

import numpy as np
import scipy.stats

from kdtf.search.evolution import Evolution
from kdtf.search.optuna_strategies import Nsga2
from kdtf.search.optuna_strategies import Tpe
from kdtf.search.reinforcement import Reinforcement
from kdtf.search.space import Space
from kdtf.search.strategies import Measured
from kdtf.search.strategies import RandomSearch

TASKS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet16-120",
}
STRATEGIES = {
    "random": RandomSearch,
    "evolution": Evolution,
    "reinforcement": Reinforcement,
    "tpe": Tpe,
    "nsga2": Nsga2,
}
SLOW = "tpe", "nsga2"
EARLIER = {
    "random": (0.55, 1.98, 1.84),
    "evolution": (0.16, 0.55, 1.10),
    "reinforcement": (0.26, 0.95, 1.32),
    "tpe": (0.10, 0.51, 0.84),
    "nsga2": (0.19, 0.71, 1.30),
}
SHOWN = 50, 100, 150, 300
MAX_ATTEMPTS = 200
# Names, not numbers: the operations have no order.
SPACE = Space(
    {f"edge {edge}": [f"operation {i}" for i in range(5)] for edge in range(6)}
)


def load(folder):
    """Returns by task the validation and test accuracies, by point."""
    with np.load(folder / "nas_bench_201.npz", allow_pickle=False) as arrays:
        place = tuple(arrays["arch"].T.astype(int))
        tables = {}
        for task in TASKS:
            validation = np.full((5,) * 6 + (3,), np.nan)
            test = np.full((5,) * 6, np.nan)
            validation[place] = arrays[f"{task}_val200"]
            test[place] = arrays[f"{task}_test200"]
            tables[task] = validation, test
    return tables


def untried(strategy, history, tried, rng):
    """Returns a point that was not tried, and how many proposals it took."""
    for attempt in range(MAX_ATTEMPTS):
        point = strategy.propose(SPACE, history, rng=rng, attempt=attempt)
        if point not in tried:
            return point, attempt + 1
    while (point := SPACE.random(rng)) in tried:
        pass
    return point, MAX_ATTEMPTS


def search(strategy, table, *, trials, seed):
    """Returns the regret after each trial, and how many proposals it took."""
    validation, test = table
    rng = np.random.default_rng([seed, 0])
    # A stream of its own, so that it is the same for every strategy.
    draws = np.random.default_rng([seed, 1]).integers(3, size=trials)
    history, tried, regrets, num_proposals = [], set(), [], 0
    for draw in draws:
        point, count = untried(strategy, history, tried, rng)
        num_proposals += count
        tried.add(point)
        reward = float(validation[point][draw])
        history.append(Measured(point=point, reward=reward, losses=(-reward,)))
        pick = max(history, key=lambda one: one.reward)
        regrets.append(test.max() - test[pick.point])
    return np.array(regrets), num_proposals


def search_seeds(name, folder, task, trials, seeds):
    """Runs in a process of its own."""
    table = load(folder)[task]
    start = time.process_time()
    found = [
        search(STRATEGIES[name](), table, trials=trials, seed=seed)
        for seed in seeds
    ]
    seconds = time.process_time() - start
    return [regrets for regrets, _ in found], sum(n for _, n in found), seconds


def measure(pool, name, task, arguments):
    """Returns regrets `(seeds, trials)`, and proposals and seconds a trial."""
    num_seeds = arguments.slow_seeds if name in SLOW else arguments.seeds
    chunks = np.array_split(np.arange(num_seeds), 2 * arguments.processes)
    jobs = [
        pool.submit(
            search_seeds, name, arguments.data, task, arguments.trials, chunk
        )
        for chunk in chunks
    ]
    found = [job.result() for job in jobs]
    regrets = [run for runs, _, _ in found for run in runs]
    total = num_seeds * arguments.trials
    return (
        np.stack(regrets),
        sum(count for _, count, _ in found) / total,
        sum(seconds for _, _, seconds in found) / total,
    )


def standard_error(values):
    return values.std(ddof=1) / np.sqrt(len(values))


def p_value(regrets, baseline):
    """Returns how likely the baseline is as good, over the seeds of both."""
    count = min(len(regrets), len(baseline))
    better = regrets[:count] - baseline[:count]
    if not better.any():
        return 1.0
    return float(scipy.stats.wilcoxon(better, alternative="less").pvalue)


def print_line(name, task, found, baseline, shown):
    regrets, proposals, seconds = found
    cells = "".join(
        f"{regrets[:, n - 1].mean():8.2f} ±"
        f"{standard_error(regrets[:, n - 1]):5.3f}"
        for n in shown
    )
    earlier = EARLIER[name][list(TASKS).index(task)]
    verdict = "-"
    if 150 in shown:
        after = regrets[:, 149]
        close = after.mean() - 2 * standard_error(after) <= earlier
        verdict = "ok" if close else "worse"
    p = "-"
    if name != "random" and baseline is not None:
        last = shown[-1] - 1
        p = f"{p_value(regrets[:, last], baseline[:, last]):.1e}"
    print(
        f"{name:14}{len(regrets):6}{cells}{earlier:9.2f}{verdict:>7}{p:>10}"
        f"{proposals:11.2f}{1000 * seconds:10.1f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--slow-seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES)
    )
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    shown = [n for n in SHOWN if n <= arguments.trials] or [arguments.trials]
    with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
        for task, title in TASKS.items():
            after = "".join(f"{f'after {n}':>15}" for n in shown)
            print(
                f"\n{title}, regret in points\n"
                f"{'':14}{'seeds':>6}{after}{'earlier':>9}{'':7}{'p':>10}"
                f"{'proposals':>11}{'ms':>10}\n"
                f"{'':{46 + 15 * len(shown)}}{'a trial':>11}{'a trial':>10}"
            )
            baseline = None
            for name in arguments.strategies:
                found = measure(pool, name, task, arguments)
                if name == "random":
                    baseline = found[0]
                print_line(name, task, found, baseline, shown)


if __name__ == "__main__":
    main()
