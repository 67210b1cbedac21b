"""`kdtf microcontroller`: from a model to a folder of C++ for a chip."""

import argparse
from typing import Any

from kdtf.cli.parser import positive_int


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "write a model as C++ for a microcontroller and measure its memory"
    parser: argparse.ArgumentParser = commands.add_parser(
        "microcontroller", help=text, description=f"Microcontroller: {text}."
    )
    parser.add_argument(
        "model", metavar="MODEL", help=".keras, .h5 or int8 .tflite file"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        required=True,
        help="the folder to write",
    )
    parser.add_argument(
        "--name",
        default="model",
        help="of the files and in the C++ names; default: model",
    )
    parser.add_argument(
        "--flash-bytes",
        type=positive_int,
        metavar="N",
        help="what there is for the model, without the interpreter's code",
    )
    parser.add_argument(
        "--ram-bytes",
        type=positive_int,
        metavar="N",
        help="what there is for the arena",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".npz with real inputs (x, or one array per input name), for "
        "ranges and for the check",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Exports the model and prints the result."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.export import export_microcontroller

    model = args.model
    if not model.endswith(".tflite"):
        from kdtf.evaluation import load_keras_model

        model = load_keras_model(model)
    x = read_arrays(args.data)[0] if args.data else None
    result = export_microcontroller(
        model,
        args.output,
        name=args.name,
        flash_bytes=args.flash_bytes,
        ram_bytes=args.ram_bytes,
        representative_data=x,
        verify_data=x,
    )
    print(result)
