"""A real search: is the student that was found better than the demo's?

For the task behind `kdtf search --space SPACE`, each strategy searches with
several seeds, half the training a trial (a quarter for decoders), within what
the student costs that `kdtf demo` has by hand, which is the first one tried.
What each found is then distilled with all steps from several seeds, as is the
hand-made student, and judged on test data that no search has seen. Sizes are
the files'; latencies are LiteRT's, all files in turn in one run.

    python tests/benchmarks/search_demo.py --space cnn --out DIR \\
        --limits bytes latency_ms

Everything stays in --out: killed and started again it goes on, and several
processes with one --out share the trials. A limit on the latency is one on
what a model predicts that was fitted to 40 files of the space, so that
trials are judged alike whatever else the machine does. With it what is shipped
is the best trial whose trained file is measured to be no slower, and is no
larger, than the hand-made one's; leave the machine alone while it runs.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console

import kdtf
from kdtf.recipes.student_search import costs_of
from kdtf.recipes.student_search import distilled_file
from kdtf.recipes.student_search import objective_of
from kdtf.recipes.student_tasks import TASKS
from kdtf.recipes.workspace import Workspace
from kdtf.search import LatencyModel
from kdtf.search.latency_model import measure


def searched(task, objective, limits, arguments, strategy, seed):
    return kdtf.search(
        task.preset.build,
        task.preset.space,
        objective,
        strategy=strategy,
        trials=arguments.trials,
        limits=limits,
        direction="min",
        first=[task.preset.default],
        study=arguments.out / f"{strategy}-{seed}.log",
        seed=seed,
        verbose=0,
    )


def latency_model(folder, task, by_hand):
    """Returns what predicts latencies, fitted once."""
    path = folder / "latency.json"
    if not path.exists():
        rng = np.random.default_rng(0)
        space, files = task.preset.space, [by_hand]
        while len(files) < 40:
            point = space.random(rng)
            if space.refusal(point) is None:
                files.append(folder / "latency" / f"{len(files)}.tflite")
                kdtf.export_tflite(
                    task.preset.build(space.decode(point)),
                    files[-1],
                    representative_data=task.calibration,
                    **task.export,
                )
        times = measure(files, num_runs=2000)
        LatencyModel.fit(files, times).save(path)
    return LatencyModel.load(path)


def best_first(result, metric):
    """Returns the trials within the limits, the best one first."""
    within = [
        trial
        for trial in result.complete
        if all(trial.values[k] <= v for k, v in result.limits.items())
    ]
    return sorted(within, key=lambda trial: trial.values[metric])


def fits(path, by_hand):
    """Returns whether a file is as small and as fast as another."""
    own, other = measure([path, by_hand], num_runs=30_000, num_warmup=100)
    # Two runs of one file differ by a percent.
    return path.stat().st_size <= by_hand.stat().st_size and own <= 1.01 * other


def judge(files, task):
    """Prints quality, size and latency of the students, by name."""
    metrics = {
        metric().name: metric() for metric in (task.metric, task.choosing)
    }
    rows = kdtf.compare(
        {f"{name} {seed}": path for (name, seed), path in files.items()},
        task.test,
        metrics=list(metrics.values()),
        latency_runs=5000,
    )
    heads = "".join(f"{name:>14}" for name in metrics)
    print(f"\n{'all steps':20}{heads}  {'each':22}{'kB':>8}{'ms':>10}")
    for name in dict.fromkeys(name for name, _ in files):
        own = [rows[f"{name} {seed}"] for kind, seed in files if kind == name]
        means = [np.mean([row.metrics[m] for row in own]) for m in metrics]
        first = next(iter(metrics))
        each = ", ".join(f"{row.metrics[first]:.4f}" for row in own)
        print(
            f"{name:20}{''.join(f'{mean:14.4f}' for mean in means)}  {each:22}"
            f"{own[0].size_bytes / 1000:8.1f}"
            f"{np.median([row.latency_ms_p50 for row in own]):10.4f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cnn", choices=list(TASKS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--limits",
        nargs="+",
        choices=["bytes", "macs", "latency_ms"],
        default=["bytes", "macs"],
    )
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--search-seeds", type=int, nargs="+", default=[1, 2, 3]
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["random", "evolution", "reinforcement"],
    )
    arguments = parser.parse_args()
    # Bars would bury the results.
    keras.config.disable_interactive_logging()
    workspace = Workspace(arguments.out, console=Console(quiet=True))
    task = TASKS[arguments.space](seed=0, quick=False)
    teacher = task.trained_teacher(workspace)
    seeds = range(1, arguments.seeds + 1)

    def distilled(name, choices, only=None):
        return {
            (name, seed): distilled_file(
                workspace,
                task,
                teacher,
                choices,
                name=f"{name.replace(' ', '-')}-{seed}",
                seed=seed,
            )
            for seed in seeds
            if only in (None, seed)
        }

    files = distilled("by hand", None)
    latency = latency_model(arguments.out, task, files["by hand", 1])
    limits = costs_of(files["by hand", 1])
    # Its size is in the prediction, and names alone change that.
    limits["latency_ms"] = 1.01 * latency.predict(files["by hand", 1])
    limits = {name: limits[name] for name in arguments.limits}
    objective = objective_of(task, teacher, latency=latency)
    metric = task.choosing().name
    print(
        f"{task.title}; {arguments.trials} trials within {limits}\n"
        f"{latency}\n\n{metric:20}{'the best':>14}{'shipped':>14}"
    )
    for strategy in arguments.strategies:
        for seed in arguments.search_seeds:
            result = searched(
                task, objective, limits, arguments, strategy, seed
            )
            name = f"{strategy} {seed}"
            for rank, trial in enumerate(best_first(result, metric)):
                tried = name if rank == 0 else f"{name} rank {rank}"
                path = distilled(tried, trial.choices, only=1)
                if "latency_ms" not in limits or fits(
                    path[tried, 1], files["by hand", 1]
                ):
                    break
            chosen = ", ".join(f"{k}={v}" for k, v in trial.choices.items())
            best = result.best.values[metric]
            print(
                f"{name:20}{best:14.4f}{trial.values[metric]:14.4f}  {chosen}",
                flush=True,
            )
            for (_, number), path in distilled(tried, trial.choices).items():
                files[name, number] = path
    judge(files, task)


if __name__ == "__main__":
    main()
