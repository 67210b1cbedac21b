"""`kdtf inspect`: what is in a model file."""

import argparse
from typing import Any


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "show a file's layers or operators, dtypes, sizes and zeros"
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect", help=text, description=f"Inspect: {text}."
    )
    parser.add_argument("model", metavar="MODEL", help=".keras, .h5, .tflite")
    parser.add_argument(
        "--delegates",
        action="store_true",
        help="also show which operators of a .tflite fall back to the CPU's "
        "plain kernels with XNNPACK, GPU and NNAPI",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Inspects the file and prints what was found."""
    from kdtf.evaluation import inspect_model

    print(inspect_model(args.model))
    if args.delegates:
        from kdtf.export import delegate_report

        print(delegate_report(args.model))
