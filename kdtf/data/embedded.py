"""Real data that needs no download: it ships with Python or scikit-learn."""

import re
from typing import Any
from typing import NamedTuple

import numpy as np

__all__ = ["Split", "digits", "documentation_text"]

# Paragraphs that are held out together, so that neighbours stay neighbours.
_RUN = 16


class Split(NamedTuple):
    """Training and held-out data.

    Attributes:
        train: What models learn from.
        test: What they are judged by; no part of it is in `train`.
    """

    train: Any
    test: Any


def digits(test_share: float = 0.25) -> Split:
    """Gives the 1,797 handwritten digits that come with scikit-learn.

    Scans of digits by 13 people (the test part of UCI's "Optical Recognition
    of Handwritten Digits"), 8x8 grey images of 10 classes. The last quarter is
    held out, not a random one: neighbours are often by the same hand.

    Args:
        test_share: Share to hold out, in (0, 1). Defaults to 0.25.

    Returns:
        `train` and `test`, each a pair: images float32 `(n, 8, 8, 1)` in
        [0, 1], labels int32 `(n,)` in 0..9.

    Raises:
        ValueError: `test_share` is outside (0, 1).

    Example:
        >>> train, test = digits()
        >>> train[0].shape, test[0].shape
        ((1347, 8, 8, 1), (450, 8, 8, 1))

    Reference:
        https://archive.ics.uci.edu/dataset/80
    """
    _check_share(test_share)
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = (bunch.images[..., None] / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int32)
    cut = len(labels) - int(np.ceil(len(labels) * test_share))
    return Split((images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def documentation_text(test_share: float = 0.1) -> Split:
    """Gives the Python language reference, as the standard library ships it.

    English technical prose (`pydoc_data.topics`, what `help("while")` shows).
    A fifth of it stands there more than once; every paragraph is kept once, or
    the held-out text would be in the training text too. Runs of 16 paragraphs
    are held out, evenly spread.

    Args:
        test_share: Share of the runs to hold out, in (0, 1). Defaults to 0.1.

    Returns:
        `train` and `test`, each one string. They differ between Python
        versions, whose documentation differs.

    Raises:
        ValueError: `test_share` is outside (0, 1).

    Example:
        >>> train, test = documentation_text()
        >>> len(train) > 300_000, len(test) > 30_000
        (True, True)
    """
    _check_share(test_share)
    from pydoc_data import topics

    texts = [text for _, text in sorted(topics.topics.items())]
    paragraphs = _unique_paragraphs(texts)
    parts: dict[bool, list[str]] = {True: [], False: []}
    for start in range(0, len(paragraphs), _RUN):
        run = start // _RUN
        held_out = int((run + 1) * test_share) > int(run * test_share)
        parts[held_out].append("\n\n".join(paragraphs[start : start + _RUN]))
    return Split("\n\n".join(parts[False]), "\n\n".join(parts[True]))


def _unique_paragraphs(texts: list[str]) -> list[str]:
    """Returns the paragraphs in order, each once whatever its line breaks."""
    unique: dict[str, str] = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
            unique.setdefault(" ".join(paragraph.split()), paragraph)
    unique.pop("", None)
    return list(unique.values())


def _check_share(test_share: float) -> None:
    if not 0.0 < test_share < 1.0:
        raise ValueError(
            "`test_share` must be in (0, 1): both parts need data. Received: "
            f"test_share={test_share}."
        )
