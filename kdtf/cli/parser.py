"""An argument parser whose errors are one line."""

import argparse
from typing import Any
from typing import NoReturn


class UsageError(Exception):
    """What is wrong with the arguments, and where to look."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse prints its usage and exits."""

    def __init__(self, **kwargs: Any) -> None:
        """Takes what argparse takes; options must be spelled in full."""
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Refuses the arguments.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def add_run_options(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Adds the options of commands that train something.

    Args:
        parser: The command's.
        out: The default folder of its results.
    """
    parser.add_argument(
        "--out",
        default=out,
        metavar="DIR",
        help=f"where results go; default: ./{out}",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: 0"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps only: to see it work, not to see it learn",
    )


def positive_int(text: str) -> int:
    """Reads a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: It is none.

    Example:
        >>> positive_int("3")
        3
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1, not {text!r}"
        )
    return number
