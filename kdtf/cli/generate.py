"""`kdtf generate`: text from an exported language model."""

import argparse
import atexit
import os
import sys
from typing import Any

from kdtf.cli.parser import positive_int


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "let an exported language model write"
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help=text,
        description=f"Generate: {text}. Speed and length go to standard error.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=".tflite file of kdtf.export_language_model",
    )
    parser.add_argument("prompt", metavar="TEXT", help="what comes before")
    parser.add_argument(
        "--max-tokens",
        type=positive_int,
        metavar="N",
        help="write at most so many; default: until the cache is full",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0: always the likeliest token; 1: draw as the model says; "
        "default: 0",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: 0"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="TEXT is what a user says, not what the model continues",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads; default: 1",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints the text as it comes, then how fast it came."""
    from kdtf.export import LanguageModelRunner

    runner = LanguageModelRunner(args.model, num_threads=args.threads)
    pieces = runner.generate(
        args.prompt,
        chat=args.chat,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)
    print(runner.stats, file=sys.stderr)
    if _logs_are_aside():
        atexit.register(_drop_last_words)


def _logs_are_aside() -> bool:
    """Tells whether Python's standard error was led around the logs."""
    try:
        return sys.stderr.fileno() != 2
    except (OSError, ValueError):
        return False


def _drop_last_words() -> None:
    """Drops what LiteRT logs when the process ends, after all else."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
