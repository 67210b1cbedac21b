"""`kdtf advise`: which technique fits a model and a budget."""

import argparse
from typing import Any

from kdtf.cli.compress import add_budget_options
from kdtf.cli.compress import load_with_loss


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "say which technique fits a model and a budget, without training"
    parser: argparse.ArgumentParser = commands.add_parser(
        "advise",
        help=text,
        description=f"Advise: {text}. Quantizes the model in every way, times "
        "what this machine can do, and says what that leaves to do.",
    )
    parser.add_argument("model", metavar="MODEL", help=".keras file")
    parser.add_argument(
        "--data",
        required=True,
        metavar="NPZ",
        help="some hundred examples: x (or one array per input name) and y",
    )
    add_budget_options(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measures, and prints the ranked suggestions."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.recipes.advice import advise

    data = read_arrays(args.data)
    model = load_with_loss(args.model, args.loss, data[0])
    advice = advise(
        model,
        data,
        target=args.target,
        max_size=args.max_size,
        max_latency_ms=args.max_latency_ms,
        max_quality_loss=args.max_quality_loss,
        metric=args.metric,
    )
    print(advice)
