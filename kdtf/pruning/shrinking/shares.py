"""How much of each kind, or of some layers, stays: told, not found."""

import fnmatch
import numbers
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

__all__ = ["Shares", "nearest"]


class Shares:
    """The part of things that stays, by the first name that fits.

    Args:
        given: A kind, or a pattern of layer paths, to a share in (0, 1].
        kinds: The kinds there are.

    Raises:
        ValueError: It is empty, a name is no text, or a share out of range.

    Example:
        >>> shares = Shares({"stem*": 0.5, "width": 0.25}, ["width", "heads"])
        >>> shares("width", ["stem_1"]), shares("width", ["a"]), shares("heads")
        (0.5, 0.25, 1.0)
        >>> shares.check_used([])
    """

    def __init__(
        self, given: Mapping[str, float], kinds: Sequence[str]
    ) -> None:
        """Checks what was given."""
        fits = all(
            isinstance(name, str)
            and isinstance(share, numbers.Real)
            and 0.0 < share <= 1.0
            for name, share in given.items()
        )
        if not given or not fits:
            raise ValueError(
                f"`keep` must be a number in (0, 1], or map kinds "
                f"({', '.join(kinds)}) or patterns of layer paths to such "
                f"numbers. Received: keep={given!r}."
            )
        self._given = dict(given)
        self._used: set[str] = set()

    def __call__(self, kind: str, paths: Sequence[str] = ()) -> float:
        """Returns the share that stays: all if no name fits.

        Args:
            kind: What it is.
            paths: The layers that have it.
        """
        for name, share in self._given.items():
            if name == kind or any(fnmatch.fnmatchcase(p, name) for p in paths):
                self._used.add(name)
                return float(share)
        return 1.0

    def check_used(self, known: Sequence[str]) -> None:
        """Refuses names that decided nothing so far.

        Args:
            known: Names that would have.

        Raises:
            ValueError: There are some.
        """
        unused = [name for name in self._given if name not in self._used]
        if unused:
            raise ValueError(
                "Each name in `keep` must be that of something that can be "
                f"made smaller. Received: {unused}, which fit none of "
                f"{list(known)}."
            )


def nearest(allowed: np.ndarray, share: float) -> int:
    """Returns the allowed number next to a share of the last one.

    Example:
        >>> nearest(np.array([8, 16, 20]), 0.5)
        8
    """
    return int(allowed[np.abs(allowed - share * allowed[-1]).argmin()])
