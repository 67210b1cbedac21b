"""`kdtf benchmark`: model files side by side."""

import argparse
import collections
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from kdtf.cli.parser import positive_int


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "compare files in size, latency and, with data, quality"
    parser: argparse.ArgumentParser = commands.add_parser(
        "benchmark",
        help=text,
        description=f"Benchmark: {text}. The first file is the reference. "
        "Without data it times on random inputs.",
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help=".keras, .h5, .tflite"
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads for LiteRT; default: 1",
    )
    parser.add_argument(
        "--runs",
        type=positive_int,
        default=50,
        metavar="N",
        help="timed calls of each file, in turn; default: 50",
    )
    _add_data_and_reports(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Compares the files, prints the table and writes what was asked for."""
    from kdtf.cli.arrays import read_arrays
    from kdtf.evaluation import compare

    files = dict(zip(row_names(args.files), args.files, strict=True))
    tried = _tried(args, files)
    comparison = compare(
        files,
        read_arrays(args.data) if args.data else None,
        metrics=args.metrics,
        num_threads=args.threads,
        latency_runs=args.runs,
    )
    comparison.print()
    if args.json:
        print(f"wrote {comparison.to_json(args.json)}")
    if args.html:
        title = f"{len(comparison)} models compared"
        path = comparison.to_html(
            args.html, title=title, try_it=tried, runtime=args.web_runtime
        )
        print(f"wrote {path}")


def _tried(args: argparse.Namespace, files: dict[str, str]) -> dict[str, str]:
    """Gives what the page shall offer to try, before the long work.

    Raises:
        ValueError: There is no page to do so, or LiteRT.js is not found.
    """
    if not args.try_it:
        return {}
    if not args.html:
        raise ValueError(
            "--try-it adds links to the page that --html writes. Received: no "
            "--html. Add it, or leave --try-it out."
        )
    from kdtf.export.web.runtime import NPM
    from kdtf.export.web.runtime import find_runtime

    if args.web_runtime != NPM:
        find_runtime(args.web_runtime)
    return {n: file for n, file in files.items() if file.endswith(".tflite")}


def row_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Gives each file a short name; whole paths where short ones clash.

    Raises:
        ValueError: A file is given twice.

    Example:
        >>> row_names(["a/m.tflite", "b/m.tflite", "b/n.tflite"])
        ['a/m.tflite', 'b/m.tflite', 'n.tflite']
    """
    texts = [os.fspath(path) for path in paths]
    if len(set(texts)) < len(texts):
        raise ValueError(
            f"Every file must be given once. Received: files={texts}."
        )
    counts = collections.Counter(pathlib.Path(text).name for text in texts)
    names = []
    for text in texts:
        name = pathlib.Path(text).name
        names.append(name if counts[name] == 1 else text)
    return names


def _add_data_and_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="NPZ",
        help=".npz with x (or one array per input name) and optionally y and "
        "sample_weight",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        dest="metrics",
        metavar="NAME",
        help="a Keras metric, such as accuracy; needs y; may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--html", metavar="FILE", help="write a page")
    parser.add_argument(
        "--try-it",
        action="store_true",
        help="beside the page, write one for each .tflite that runs it in "
        "the browser",
    )
    parser.add_argument(
        "--web-runtime",
        metavar="DIR",
        help="where LiteRT.js is: a folder with a node_modules, or npm to "
        "fetch it; default: here or above",
    )
