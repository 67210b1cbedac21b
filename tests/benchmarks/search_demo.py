"""A real search: is the student that was found better than the demo's?

For the task behind `kdtf search --space SPACE`, each strategy searches with
several seeds, for a quarter of the training a trial, within the bytes and
operations of the student that `kdtf demo` has by hand. What each found is then
distilled with all steps from several seeds, as is the hand-made student, and
judged on test data that no search has seen. Sizes are the files'; latencies
are LiteRT's, all files in turn in one run.

    python tests/benchmarks/search_demo.py --space cnn --out DIR

Everything stays in --out: killed and started again it goes on, and several
processes with one --out share the trials.
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


def searched(task, teacher, limits, arguments, strategy, seed):
    return kdtf.search(
        task.preset.build,
        task.preset.space,
        objective_of(task, teacher),
        strategy=strategy,
        trials=arguments.trials,
        limits=limits,
        direction=task.direction,
        study=arguments.out / f"{strategy}-{seed}.log",
        seed=seed,
        verbose=0,
    )


def judged(files, task):
    """Returns the rows of all files, timed in turn."""
    return kdtf.compare(
        files, task.test, metrics=[task.metric()], latency_runs=200
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cnn", choices=list(TASKS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
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
    files = {
        ("by hand", 0, seed): distilled_file(
            workspace, task, teacher, None, name=f"by-hand-{seed}", seed=seed
        )
        for seed in seeds
    }
    limits = costs_of(files["by hand", 0, 1])
    print(f"{task.title}; {arguments.trials} trials each, limits {limits}")
    for strategy in arguments.strategies:
        for search_seed in seeds:
            result = searched(
                task, teacher, limits, arguments, strategy, search_seed
            )
            best = result.best
            print(
                f"{strategy:14} seed {search_seed}: {best.values} "
                f"{best.choices}",
                flush=True,
            )
            for seed in seeds:
                files[strategy, search_seed, seed] = distilled_file(
                    workspace,
                    task,
                    teacher,
                    best.choices,
                    name=f"{strategy}-{search_seed}-{seed}",
                    seed=seed,
                )
    names = {key: " ".join(map(str, key)) for key in files}
    rows = judged({names[key]: path for key, path in files.items()}, task)
    metric = task.metric().name
    print(
        f"\n{'':24}{metric:>10} of {arguments.seeds} trainings "
        f"{'kB':>18}{'ms':>9}"
    )
    for key in dict.fromkeys(key[:2] for key in files):
        own = [rows[names[(*key, seed)]] for seed in seeds]
        quality = [row.metrics[metric] for row in own]
        spread = f"({min(quality):.4f} to {max(quality):.4f})"
        name = f"{key[0]}, search {key[1]}" if key[1] else key[0]
        print(
            f"{name:24}{np.mean(quality):10.4f} {spread:20}"
            f"{own[0].size_bytes / 1000:10.1f}"
            f"{np.median([row.latency_ms_p50 for row in own]):9.4f}"
        )


if __name__ == "__main__":
    main()
