"""The law: what is zero can go, and nothing changes, whatever the graph."""

import keras
import numpy as np
import pytest
from shrink_models import inputs_of
from shrink_models import random_model
from shrink_models import zero_what_goes

from kdtf.pruning.shrinking import plan_shrink


def outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def check(seed):
    """Returns how much of a random model went, None if nothing can."""
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    x = inputs_of(model, rng)
    keep = float(rng.uniform(0.3, 0.9))
    try:
        plan = plan_shrink(model, keep, round_to=1)
    except ValueError as error:
        assert "must have channels" in str(error) or "be met" in str(error)
        return None
    smaller = plan.build()
    assert smaller.count_params() == plan.parameters[1]
    assert plan.parameters[1] <= keep * plan.parameters[0]
    untouched = outputs(model, x)
    zero_what_goes(plan)
    for whole, left in zip(outputs(model, x), outputs(smaller, x), strict=True):
        np.testing.assert_allclose(left, whole, rtol=1e-4, atol=1e-5)
    # And it was no model in which nothing matters.
    changed = max(
        np.abs(a - b).max()
        for a, b in zip(untouched, outputs(model, x), strict=True)
    )
    return changed


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_zeros_go_and_nothing_changes(first):
    changes = [check(seed) for seed in range(first, first + 8)]
    assert sum(change is not None and change > 1e-4 for change in changes) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("first", range(24, 264, 24))
def test_zeros_go_and_nothing_changes_in_many_more(first):
    changes = [check(seed) for seed in range(first, first + 24)]
    assert sum(change is not None and change > 1e-4 for change in changes) >= 12
