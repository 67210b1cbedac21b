"""`kdtf export`: from a Keras file to a verified `.tflite`."""

import argparse
from typing import Any


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "write a Keras model as a .tflite file and check what it computes"
    parser: argparse.ArgumentParser = commands.add_parser(
        "export", help=text, description=f"Export: {text}."
    )
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the .tflite file to write",
    )
    parser.add_argument(
        "--target",
        default="android",
        choices=["android", "iot", "float"],
        help="what the file may use; default: android",
    )
    parser.add_argument(
        "--quantize",
        choices=[
            "float16",
            "dynamic_int8",
            "int8",
            "int4",
            "int4_block32",
            "int4_block64",
            "int4_block128",
            "int4_block256",
        ],
        help="how to store the weights (int8: activations too; int4_block32: "
        "one scale for 32 weights); default: what the model was quantized "
        "for, else what the target asks for",
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="store weights that are zero in blocks sparse (1x4, int8 1x16; "
        "layers that compute one row)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".npz with real inputs (x, or one array per input name), for "
        "ranges and for the check",
    )
    parser.add_argument(
        "--android-project",
        metavar="DIR",
        help="also write a minimal Kotlin app that runs the file (not "
        "compiled here)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Exports the model and prints the result."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.evaluation import load_keras_model
    from kdtf.export import export_tflite
    from kdtf.export import write_android_project
    from kdtf.export.android.project import check_directory

    if args.android_project:
        check_directory(args.android_project)
    x = read_arrays(args.data)[0] if args.data else None
    result = export_tflite(
        load_keras_model(args.model),
        args.output,
        target=args.target,
        quantize=args.quantize,
        representative_data=x,
        verify_data=x,
        sparse=args.sparse,
    )
    print(result)
    if args.android_project:
        folder = write_android_project(args.output, args.android_project)
        print(f"{folder}: an Android project (see its README.md)")
