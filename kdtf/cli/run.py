"""`kdtf run`: the steps of a recipe file."""

import argparse
import json
from typing import Any

from kdtf.cli.parser import UsageError


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "distil, prune, quantize, export as a recipe file says"
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help=text,
        description=f"Run: {text}. All of the file is checked before anything "
        "runs; a second run goes on where the first was stopped.",
    )
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help=".yaml or .json file"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where results go; default: the recipe's `out`",
    )
    parser.add_argument(
        "--tensorboard",
        metavar="DIR",
        help="write TensorBoard's logs, a folder for each step that trains",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say what would be done, and do nothing",
    )
    parser.add_argument(
        "--schema",
        action="store_true",
        help="print what a recipe may hold, as a JSON schema",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Runs the recipe, which prints as it goes, and prints what was made.

    Raises:
        UsageError: There is no recipe.
    """
    if args.schema:
        from kdtf.recipes.recipe_files.schema import Recipe

        print(json.dumps(Recipe.model_json_schema(), indent=2))
        return
    if args.recipe is None:
        raise UsageError("RECIPE is required (see `kdtf run --help`)")
    if args.check:
        from kdtf.recipes.recipe_files.reading import read_recipe

        steps = read_recipe(args.recipe).steps
        for number, step in enumerate(steps, start=1):
            print(f"Step {number} of {len(steps)}: {step}")
        return
    from kdtf.recipes.recipe_files.running import run_recipe

    print(run_recipe(args.recipe, out=args.out, tensorboard=args.tensorboard))
