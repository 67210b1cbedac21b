"""What a student took over from its teacher, told to people."""

import dataclasses

from kdtf import console

__all__ = ["InitializationReport", "InitializationRow"]


@dataclasses.dataclass(frozen=True)
class InitializationRow:
    """What became of a student's layer.

    Attributes:
        layer: Its path, from the backbone on.
        source: The teacher's layer or block it was copied from, or "".
        num_parameters: How many it holds.
        reason: Why it stays as it was, or "".
    """

    layer: str
    source: str
    num_parameters: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class InitializationReport:
    """Which of a student's layers begin as copies of its teacher's.

    Attributes:
        rows: One for each block, or for each layer of a block that was not
            copied as a whole, and one for each other layer with weights.
    """

    rows: tuple[InitializationRow, ...]

    @property
    def num_copied(self) -> int:
        """Parameters that were copied."""
        return sum(row.num_parameters for row in self.rows if row.source)

    @property
    def num_parameters(self) -> int:
        """Parameters of the student."""
        return sum(row.num_parameters for row in self.rows)

    def __str__(self) -> str:
        """Gives a table of the rows."""
        cells = [
            (row.layer, f"{row.num_parameters:,}", row.source or row.reason)
            for row in self.rows
        ]
        columns = ("Student", "Parameters", "From the teacher's")
        table = console.table(columns, cells, numbers={"Parameters"})
        share = self.num_copied / max(self.num_parameters, 1)
        head = (
            f"Copied {self.num_copied:,} of {self.num_parameters:,} parameters "
            f"({share:.1%})"
        )
        text = console.plain_text(lambda out: out.print(table), width=100)
        return f"{head}\n{text}"
