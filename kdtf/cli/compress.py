"""`kdtf compress`: the best verified file within a budget."""

import argparse
import subprocess
import sys
from typing import Any

from kdtf.cli.parser import positive_int

_SETTINGS = (
    "target",
    "max_size",
    "max_latency_ms",
    "max_quality_loss",
    "time_budget",
    "metric",
    "epochs",
    "learning_rate",
    "out",
    "seed",
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "make the best verified file of a model within a budget"
    parser: argparse.ArgumentParser = commands.add_parser(
        "compress",
        help=text,
        description=f"Compress: {text}. Tries what is cheap first, trains "
        "where that is not enough, and says why it chose. A second run goes "
        "on where the first was stopped.",
    )
    parser.add_argument("model", metavar="MODEL", help=".keras file")
    parser.add_argument(
        "--data",
        required=True,
        metavar="NPZ",
        help="what is learned from: x (or one array per input name) and y",
    )
    parser.add_argument(
        "--validation",
        required=True,
        metavar="NPZ",
        help="what files are judged by",
    )
    add_budget_options(parser)
    parser.add_argument(
        "--time-budget",
        type=float,
        metavar="S",
        help="seconds after which no more is tried",
    )
    parser.add_argument(
        "--epochs",
        type=positive_int,
        default=3,
        metavar="N",
        help="of a training that changes little; default: 3",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="of a shrunk model; default: 0.001",
    )
    parser.add_argument(
        "--out",
        default="kdtf-compress",
        metavar="DIR",
        help="where results go; default: ./kdtf-compress",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: 0"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        metavar="N",
        help="processes that share the work; default: 1",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page")
    # A further worker of a run that another process leads.
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Compresses, which prints as it goes, and says where the file is."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.recipes.compression import compress

    train, validation = read_arrays(args.data), read_arrays(args.validation)
    model = load_with_loss(args.model, args.loss, train[0])
    helpers = [_start_helper(args) for _ in range(args.workers - 1)]
    try:
        found = compress(
            model,
            train,
            validation,
            **{name: getattr(args, name) for name in _SETTINGS},
            verbose=0 if args.worker else 1,
        )
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()
    if args.worker:
        return
    if args.html:
        page = found.to_html(args.html, validation, model=model)
        print(f"wrote {page}")
    print(found.path)


def _start_helper(args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Starts a process that shares the work, in the same folder."""
    words = [args.model, "--worker"]
    for name in ("data", "validation", "loss", *_SETTINGS):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return subprocess.Popen(  # noqa: S603  Our own program, no shell.
        [sys.executable, "-m", "kdtf", "compress", *words],
        stdout=subprocess.DEVNULL,
    )


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what a file may cost.

    Args:
        parser: The command's.
    """
    parser.add_argument(
        "--target",
        default="android",
        choices=["android", "iot"],
        help="default: android",
    )
    parser.add_argument(
        "--max-size", metavar="SIZE", help="of the file, such as 2MB or 64KiB"
    )
    parser.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="of one call on LiteRT, one thread, this machine",
    )
    parser.add_argument(
        "--max-quality-loss",
        type=float,
        metavar="LOSS",
        help="how much worse the metric may get, such as 0.01",
    )
    parser.add_argument(
        "--metric",
        default="accuracy",
        metavar="NAME",
        help="a Keras metric; default: accuracy",
    )
    parser.add_argument(
        "--loss",
        default="sparse_categorical_crossentropy",
        metavar="NAME",
        help="a Keras loss; logits or probabilities are told apart; default: "
        "sparse_categorical_crossentropy",
    )


def load_with_loss(path: str, loss: str, x: Any) -> Any:
    """Returns the model in a file, compiled with a loss.

    Args:
        path: A `.keras` file.
        loss: Keras's name of it.
        x: Inputs, some of which are run where the model's graph does not tell
            what its outputs are.
    """
    from kdtf.batches import first_examples
    from kdtf.evaluation import load_keras_model
    from kdtf.recipes.recipe_files.steps import loss_of

    model = load_keras_model(path)
    model.compile(loss=loss_of(loss, model, first_examples((x,), 1)))
    return model
