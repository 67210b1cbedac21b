"""`kdtf demo`: a real model, distilled, shipped and compared."""

import argparse
from typing import Any

from kdtf.cli.parser import add_run_options


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
    add_run_options(parser, out="kdtf-demo")
    return parser


def run(args: argparse.Namespace) -> None:
    """Runs the demo, which prints as it goes."""
    from kdtf.recipes.demo import run_demo

    run_demo(task=args.task, out=args.out, seed=args.seed, quick=args.quick)
