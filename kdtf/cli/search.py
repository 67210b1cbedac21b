"""`kdtf search`: the student worth training, for a budget."""

import argparse
from typing import Any

from kdtf.cli.parser import add_run_options
from kdtf.cli.parser import positive_int


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "find the student worth training, for a budget"
    parser: argparse.ArgumentParser = commands.add_parser(
        "search",
        help=text,
        description=f"Search: {text}. A teacher on data that comes along; for "
        "your own use `kdtf.search` in Python.",
    )
    parser.add_argument(
        "--space",
        default="decoder",
        choices=["decoder", "encoder", "cnn"],
        help="a language model, a transformer that classifies digits, or a "
        "network of convolutions for them; default: decoder",
    )
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="LIMITS",
        help="such as bytes=100000,macs=2e6,latency_ms=0.5; default: what the "
        "hand-made student takes",
    )
    parser.add_argument(
        "--strategy",
        default="evolution",
        choices=["evolution", "reinforcement", "nsga2", "tpe", "random"],
        help="default: evolution",
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        default=12,
        metavar="N",
        help="students that are tried; default: 12",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        metavar="N",
        help="processes that share the trials; default: 1",
    )
    add_run_options(parser, out="kdtf-search")
    # A further worker of a search that another process leads.
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Runs the search, which prints as it goes."""
    from kdtf.recipes.student_search import run_search

    run_search(
        space=args.space,
        budget=args.budget,
        strategy=args.strategy,
        trials=args.trials,
        workers=args.workers,
        out=args.out,
        seed=args.seed,
        quick=args.quick,
        is_helper=args.worker,
    )


def budget(text: str) -> dict[str, float]:
    """Reads limits, such as "bytes=100000,latency_ms=0.5".

    Raises:
        argparse.ArgumentTypeError: They are written otherwise.

    Example:
        >>> budget("bytes=1e5,latency_ms=0.5")
        {'bytes': 100000.0, 'latency_ms': 0.5}
    """
    limits = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(
                "must be limits such as bytes=100000,latency_ms=0.5, not "
                f"{text!r}"
            ) from None
    return limits
