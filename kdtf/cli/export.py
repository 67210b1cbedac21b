"""`kdtf export`: from a Keras file to a verified `.tflite` or SavedModel."""

import argparse
import pathlib
from typing import Any

_CLOUD = "cloud"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "write a Keras model for a device and check what it computes there"
    parser: argparse.ArgumentParser = commands.add_parser(
        "export", help=text, description=f"Export: {text}."
    )
    parser.add_argument("model", metavar="MODEL", help=".keras or .h5 file")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        required=True,
        help="the .tflite file to write; for cloud the SavedModel's folder",
    )
    parser.add_argument(
        "--target",
        default="android",
        choices=["android", "iot", "float", _CLOUD],
        help="what the file may use (cloud: a float32 SavedModel for "
        "servers); default: android",
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
    _add_apps(parser)
    return parser


def _add_apps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--android-project",
        metavar="DIR",
        help="also write a minimal Kotlin app that runs the file (not "
        "compiled here)",
    )
    parser.add_argument(
        "--web-page",
        metavar="DIR",
        help="also write a page that runs the file in a browser",
    )
    parser.add_argument(
        "--web-runtime",
        metavar="DIR",
        help="where LiteRT.js is: a folder with a node_modules, or npm to "
        "fetch it; default: here or above",
    )


def run(args: argparse.Namespace) -> None:
    """Exports the model and prints the result."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.evaluation import load_keras_model
    from kdtf.export import export_saved_model

    _check(args)
    x = read_arrays(args.data)[0] if args.data else None
    model = load_keras_model(args.model)
    if args.target == _CLOUD:
        print(export_saved_model(model, args.output, verify_data=x))
    else:
        _export_file(args, model, x)


def _export_file(args: argparse.Namespace, model: Any, x: Any) -> None:
    """Writes the `.tflite` file, and the apps around it."""
    from kdtf.export import export_tflite
    from kdtf.export import write_android_project
    from kdtf.export import write_web_page

    result = export_tflite(
        model,
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
    if args.web_page:
        page = write_web_page(
            args.output, args.web_page, runtime=args.web_runtime
        )
        print(page)


def _check(args: argparse.Namespace) -> None:
    """Refuses what does not go together, before the long work.

    Raises:
        ValueError: Two options do not, or a folder is not fit to write to.
    """
    from kdtf.export.android.project import check_directory
    from kdtf.export.web.page import check_page

    if args.target == _CLOUD:
        _check_cloud(args)
    if args.web_page and args.target == "iot":
        raise ValueError(
            "--web-page needs a file with float inputs: LiteRT.js has no int8 "
            "arrays. Received: --target iot. Export for android."
        )
    if args.web_runtime and not args.web_page:
        raise ValueError(
            "--web-runtime says what --web-page shall use. Received: no "
            "--web-page. Add it, or leave --web-runtime out."
        )
    if args.android_project:
        check_directory(args.android_project)
    if args.web_page:
        check_page(args.web_page, args.web_runtime)


def _check_cloud(args: argparse.Namespace) -> None:
    given = {
        "--quantize": args.quantize,
        "--sparse": args.sparse,
        "--android-project": args.android_project,
        "--web-page": args.web_page,
    }
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise ValueError(
            "--target cloud writes a float32 SavedModel, for servers. "
            f"Received: {', '.join(wrong)}, which goes with a .tflite file. "
            "Leave it out, or export for android."
        )
    if pathlib.Path(args.output).suffix == ".tflite":
        raise ValueError(
            "--target cloud writes a folder, a SavedModel. Received: -o "
            f"{args.output}. Name a folder, or export for android."
        )
