"""`kdtf reference`: the API's documentation as HTML pages."""

import argparse
import importlib
import pathlib
import warnings
from typing import Any

# What users import from; `kdtf` has the most used names of all others.
ROOMS = (
    "kdtf",
    "kdtf.distillation",
    "kdtf.pruning",
    "kdtf.quantization",
    "kdtf.search",
    "kdtf.export",
    "kdtf.evaluation",
    "kdtf.data",
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to the program's commands and gives its parser."""
    text = "write the documentation of all public names as HTML pages"
    parser: argparse.ArgumentParser = commands.add_parser(
        "reference",
        help=text,
        description=f"Reference: {text}, made from their docstrings.",
    )
    parser.add_argument(
        "--out",
        default="kdtf-reference",
        metavar="DIR",
        help="where the pages go; default: ./kdtf-reference",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the pages and says where they begin."""
    pages = write_pages(args.out)
    print(f"wrote {len(pages)} pages; open {pages[0]}")


def write_pages(out: str) -> list[pathlib.Path]:
    """Writes a page for each room, an index and what the search box needs.

    Args:
        out: The folder; it is made.

    Returns:
        The index, and the page of each room.

    Raises:
        ImportError: pdoc is not installed.
        ValueError: `out` is a file.
    """
    folder = pathlib.Path(out)
    if folder.is_file():
        raise ValueError(
            f"`--out` must be a folder. Received: {out!r}, which is a file."
        )
    texts = _render()
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / name for name in texts if name.endswith(".html")]


def _render() -> dict[str, str]:
    """Returns the text of each file by its name, the index first."""
    try:
        from pdoc import doc
        from pdoc import render
    except ImportError as error:
        raise ImportError(
            "The reference is made by pdoc, which is not installed. Install "
            "it with `pip install 'kdtf[docs]'`."
        ) from error
    rooms = {name: importlib.import_module(name) for name in ROOMS}
    for room in rooms.values():
        # pdoc reads a module's dictionary, where names loaded on first use
        # are not yet.
        for name in room.__all__:
            vars(room)[name] = getattr(room, name)
    render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        # What pdoc warns of is a name that it cannot show.
        warnings.simplefilter("error")
        pages = {name: doc.Module(room) for name, room in rooms.items()}
        # The way from the front page to the others.
        first, *others = pages.values()
        vars(first)["submodules"] = others
        return {
            "index.html": render.html_index(pages),
            **{
                f"{name.replace('.', '/')}.html": render.html_module(
                    page, pages
                )
                for name, page in pages.items()
            },
            "search.js": render.search_index(pages),
        }
