"""Which candidate to take, and how to say why."""

from collections.abc import Sequence

from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.ways import STAGES

__all__ = ["choose", "closest", "explain"]


def closest(
    candidates: Sequence[Candidate], budget: Budget
) -> Candidate | None:
    """Returns the one that misses its worst limit by the smallest part.

    Of those within the budget, the best: in quality where bytes or time are
    limited, else in bytes.
    """
    complete = [one for one in candidates if one.is_complete]

    def rank(one: Candidate) -> tuple[float, ...]:
        misses = budget.misses(one)
        good = one.quality_loss, one.size_bytes
        order = good if budget.limits_cost else good[::-1]
        return (max(misses.values(), default=0.0), *order)

    return min(complete, key=rank, default=None)


def choose(
    candidates: Sequence[Candidate], budget: Budget
) -> tuple[Candidate | None, str]:
    """Returns the candidate to take, and the sentence that says why."""
    one = closest(candidates, budget)
    if one is None:
        failed = [f"{c.name}: {c.reason}" for c in candidates]
        first = " ".join(failed[0].split()) if failed else "nothing was tried"
        return None, f"Not reachable: {budget}. There is no file: {first}"
    costs = f"{one.size_bytes:,.0f} bytes, {one.latency_ms:.3g} ms, "
    costs += f"{one.quality:.4f}"
    if budget.misses(one):
        return one, (
            f"Not reachable: {budget}. Closest is {one.name} ({costs}): "
            f"{budget.describe(one)}."
        )
    least = "the best quality" if budget.limits_cost else "the fewest bytes"
    return one, (
        f"Chosen: {one.name} ({costs}). Of all within the budget ({budget}) "
        f"it has {least}."
    )


def explain(stage: str, candidates: Sequence[Candidate], budget: Budget) -> str:
    """Says in a sentence how far a stage got."""
    words = f"{stage} ({STAGES[stage]})"
    if not candidates:
        return f"{words}: nothing to try that would help here."
    failed = sum(not one.is_complete for one in candidates)
    tried = (
        f"{len(candidates)} tried{f', {failed} without a file' * (failed > 0)}"
    )
    best = closest(candidates, budget)
    if best is None:
        return f"{words}: {tried}."
    fits = sum(one.is_complete and not budget.misses(one) for one in candidates)
    if fits:
        return f"{words}: {tried}, {fits} within the budget."
    return (
        f"{words}: {tried}, none within the budget; the closest is "
        f"{best.name}: {budget.describe(best)}."
    )
