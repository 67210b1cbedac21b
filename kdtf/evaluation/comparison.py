"""The result of a comparison: prints itself, and writes JSON and HTML."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from kdtf.evaluation.metrics import Direction
from kdtf.evaluation.rows import Row
from kdtf.files import atomic_path

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Models side by side: what each costs and what it can do.

    `print(comparison)` shows the table, `comparison["student"]` is a row.

    Attributes:
        rows: One for each model, in the order given.
        directions: For each metric whether "higher" or "lower" is better.
        num_examples: How many examples the quality was measured on.
        environment: Versions, machine and threads of the measurement.
    """

    rows: tuple[Row, ...]
    directions: dict[str, Direction] = dataclasses.field(default_factory=dict)
    num_examples: int = 0
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """Gives the row of a model."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(
            f"There is no row {name!r}; the rows are "
            f"{[row.name for row in self.rows]}."
        )

    def __iter__(self) -> Iterator[Row]:
        """Walks over the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Counts the rows."""
        return len(self.rows)

    def __str__(self) -> str:
        """Gives the table as plain text."""
        from kdtf.evaluation.table import table_text

        return table_text(self)

    def print(self) -> None:
        """Prints the table, the best of each column in colour."""
        from kdtf.evaluation.table import print_table

        print_table(self)

    def to_dict(self) -> dict[str, Any]:
        """Gives everything as plain dicts, lists, numbers and strings.

        What is not a finite number becomes None, as JSON has no nan.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "num_examples": self.num_examples,
            "environment": dict(self.environment),
            "metrics": {
                name: {"better": direction}
                for name, direction in self.directions.items()
            },
            "rows": [_without_nan(row.to_dict()) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Comparison":
        """Makes the comparison that `to_dict` described.

        Args:
            values: What `to_dict` gave, or `json.load` of a file it wrote.

        Raises:
            ValueError: It is of another schema version, or something else.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"`values` must be a comparison of schema {SCHEMA_VERSION}. "
                f"Received: schema_version={version!r}. Measure again with "
                "this version of kdtf."
            )
        return cls(
            rows=tuple(Row.from_dict(row) for row in values["rows"]),
            directions={
                name: entry["better"]
                for name, entry in values["metrics"].items()
            },
            num_examples=values["num_examples"],
            environment=dict(values["environment"]),
        )

    def to_json(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `to_dict()` to a file, whole or not at all.

        Args:
            path: Where to; folders are made.

        Returns:
            The path.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
        return pathlib.Path(path)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Model comparison",
        notes: Mapping[str, str] | None = None,
        pictures: Mapping[str, Any] | None = None,
        try_it: Mapping[str, str | os.PathLike[str]] | None = None,
        runtime: str | os.PathLike[str] | None = None,
    ) -> pathlib.Path:
        """Writes one page with the table and pictures; it needs no network.

        With `try_it` a page that runs the model in the browser is written for
        each of these rows, into the folder `<report>-try-it` beside the
        report, which links to them: 19 MB each, most of it LiteRT.js. The
        report opens by a double click as ever; those pages need a web server
        (it says which command starts one).

        Args:
            path: Where to; folders are made.
            title: The page's heading.
            notes: More sections, heading to plain text: what each model
                wrote, how it was trained.
            pictures: More of them, heading to what has a `to_svg` method,
                such as a `Sensitivity` or a `ShrinkPlan`.
            try_it: The `.tflite` files of rows that can be tried, by the
                row's name; see `kdtf.write_web_page` for what they may be.
            runtime: As for `kdtf.write_web_page`: where LiteRT.js is.

        Returns:
            The path.

        Raises:
            ValueError: `try_it` names a row there is none of, a file that no
                page can run, or LiteRT.js is not found.
        """
        from kdtf.evaluation.report import render_report
        from kdtf.evaluation.report import write_trials

        links = write_trials(self, path, try_it or {}, runtime=runtime)
        page = render_report(
            self,
            title=title,
            notes=notes or {},
            pictures=pictures or {},
            links=links,
        )
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return pathlib.Path(path)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
