"""`kdtf demo`: a real model, distilled, shipped and compared."""

import argparse
from typing import Any


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "distil, quantize, export and compare a real model in minutes"
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo", help=text, description=f"Demo: {text}."
    )
    parser.add_argument(
        "--task",
        default="text",
        choices=["text", "image"],
        help="a language model, or handwritten digits; default: text",
    )
    parser.add_argument(
        "--out",
        default="kdtf-demo",
        metavar="DIR",
        help="where results go; default: ./kdtf-demo",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: 0"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps only: to see it work, not to see it learn",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Runs the demo, which prints as it goes."""
    from kdtf.recipes.demo import run_demo

    run_demo(task=args.task, out=args.out, seed=args.seed, quick=args.quick)
