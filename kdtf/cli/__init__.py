"""The command line: `kdtf demo | search | inspect | export | ...`.

Each command is one thin module: it parses, calls and prints. Nothing heavy is
imported before a command runs, so that `kdtf --help` answers at once.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from kdtf._version import __version__
from kdtf.cli import advise
from kdtf.cli import benchmark
from kdtf.cli import compress
from kdtf.cli import demo
from kdtf.cli import export
from kdtf.cli import generate
from kdtf.cli import inspect
from kdtf.cli import microcontroller
from kdtf.cli import reference
from kdtf.cli import run
from kdtf.cli import search
from kdtf.cli.native_logs import native_logs_aside
from kdtf.cli.parser import Parser
from kdtf.cli.parser import UsageError

__all__ = ["main"]

_COMMANDS = (
    demo,
    search,
    inspect,
    export,
    microcontroller,
    generate,
    benchmark,
    advise,
    compress,
    run,
    reference,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after the program's name. Defaults to this
            process's own.

    Returns:
        The exit code: 0; 2 for bad input, with one line on standard error;
        130 after Ctrl-C.

    Example:
        >>> main(["--version"])
        kdtf 0.1.0
        0
    """
    try:
        args = make_parser().parse_args(argv)
    except UsageError as error:
        return _fail(error)
    except SystemExit as done:
        # argparse ends --help and --version so.
        return int(done.code or 0)
    logs = contextlib.nullcontext if args.traceback else native_logs_aside
    try:
        with logs():
            args.run(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `kdtf inspect model | head`: nobody reads on, which is no error.
        # Python would complain at exit, when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # ImportError: an extra that is not installed.
    except (UsageError, ValueError, TypeError, OSError, ImportError) as error:
        if args.traceback:
            raise
        return _fail(error)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Gives the parser of all commands."""
    parser = Parser(
        prog="kdtf",
        description="Make trained Keras models small and fast, prove what it "
        "cost, and ship them.",
    )
    parser.add_argument(
        "--version", action="version", version=f"kdtf {__version__}"
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for command in _COMMANDS:
        subparser = command.add_parser(commands)
        subparser.set_defaults(run=command.run)
        subparser.add_argument(
            "--traceback",
            action="store_true",
            help="show where an error comes from, and the runtimes' logs",
        )
    return parser


def _fail(error: Exception) -> int:
    """Says what is wrong in one line; of a recipe each mistake in its own."""
    problems = getattr(error, "problems", ())
    text = str(getattr(error, "headline", error))
    text = " ".join(text.split()) or type(error).__name__
    print(f"kdtf: error: {text}", file=sys.stderr)
    for problem in problems:
        print(f"  {' '.join(problem.split())}", file=sys.stderr)
    return 2
