"""A real search: is the student that was found better than the demo's?

For the task behind `kdtf search --space SPACE`: every student of the space
within the bytes and operations of the one that `kdtf demo` has by hand is
distilled for a quarter of the steps, exported, verified and measured. On this
table the strategies search again and again. What evolution finds is then
distilled with all steps from several seeds, as is the hand-made student, and
judged on test data that no search has seen. Sizes are the files'; latencies
are LiteRT's, all files in turn in one run.

    python tests/benchmarks/search_demo.py --space cnn --out DIR

The table stays in --out: killed and started again it goes on, and several
processes with one --out share the work.
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
from kdtf.search import Infeasible


def table_of(task, teacher, limits, path):
    """Measures all of the space, and returns what each point gave."""
    result = kdtf.search(
        task.preset.build,
        task.preset.space,
        objective_of(task, teacher),
        strategy="random",
        trials=task.preset.space.size,
        limits=limits,
        direction=task.direction,
        study=path,
        seed=0,
        verbose=0,
    )
    return {tuple(trial.choices.items()): trial for trial in result.trials}


def replayed(task, table, limits, **options):
    """Searches the table."""

    def objective(chosen):
        trial = table[tuple(chosen.items())]
        if trial.status == "infeasible":
            raise Infeasible(trial.values)
        return trial.values

    return kdtf.search(
        lambda chosen: chosen,
        task.preset.space,
        objective,
        limits=limits,
        direction=task.direction,
        verbose=0,
        **options,
    )


def compare_strategies(task, table, limits, arguments):
    """Prints the mean of what each strategy finds, by the number of trials."""
    metric = task.metric().name
    complete = [t for t in table.values() if t.status == "complete"]
    values = [t.values[metric] for t in complete]
    best = min(values) if task.direction == "min" else max(values)
    print(
        f"{len(table)} students, {len(complete)} within the limits; {metric} "
        f"after a short training: median {np.median(values):.4f}, best "
        f"{best:.4f}\n\nmean of the best found, {arguments.replays} searches\n"
        f"{'trials':14}" + "".join(f"{count:>18}" for count in arguments.trials)
    )
    for strategy in arguments.strategies:
        cells = ""
        for count in arguments.trials:
            found = [
                replayed(
                    task,
                    table,
                    limits,
                    strategy=strategy,
                    trials=count,
                    seed=seed,
                ).best.values[metric]
                for seed in range(arguments.replays)
            ]
            error = np.std(found) / np.sqrt(len(found))
            cells += f"{np.mean(found):>10.4f} ±{error:.4f}"
        print(f"{strategy:14}{cells}", flush=True)


def judge(files, task):
    """Prints quality, size and latency of the students, by name."""
    metric = task.metric().name
    rows = kdtf.compare(
        {f"{name} {seed}": path for (name, seed), path in files.items()},
        task.test,
        metrics=[task.metric()],
        latency_runs=200,
    )
    print(f"\n{'all steps':14}{metric:>12}{'':24}{'kB':>8}{'ms':>10}")
    for name in dict.fromkeys(name for name, _ in files):
        own = [rows[f"{name} {seed}"] for kind, seed in files if kind == name]
        quality = [row.metrics[metric] for row in own]
        spread = ", ".join(f"{value:.4f}" for value in quality)
        print(
            f"{name:14}{np.mean(quality):12.4f}  {spread:22}"
            f"{own[0].size_bytes / 1000:8.1f}"
            f"{np.median([row.latency_ms_p50 for row in own]):10.4f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cnn", choices=list(TASKS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--trials", type=int, nargs="+", default=[12, 24, 48])
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["random", "evolution", "reinforcement", "tpe"],
    )
    arguments = parser.parse_args()
    # Bars would bury the results.
    keras.config.disable_interactive_logging()
    workspace = Workspace(arguments.out, console=Console(quiet=True))
    task = TASKS[arguments.space](seed=0, quick=False)
    teacher = task.trained_teacher(workspace)
    seeds = range(1, arguments.seeds + 1)

    def distilled(name, choices):
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
        }

    files = distilled("by hand", None)
    limits = costs_of(files["by hand", 1])
    print(f"{task.title}; limits {limits}", flush=True)
    table = table_of(task, teacher, limits, arguments.out / "table.log")
    compare_strategies(task, table, limits, arguments)
    for seed in seeds:
        best = replayed(
            task,
            table,
            limits,
            strategy="evolution",
            trials=arguments.trials[0],
            seed=seed,
        ).best
        print(f"evolution, seed {seed}: {best.choices}")
        files |= distilled(f"search {seed}", best.choices)
    judge(files, task)


if __name__ == "__main__":
    main()
