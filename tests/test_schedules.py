"""Schedules: literal values, tfmot's own values, errors, round trips."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf import schedules
from kdtf.schedules import ConstantSchedule
from kdtf.schedules import CosineSchedule
from kdtf.schedules import OneShotSchedule
from kdtf.schedules import PolynomialSchedule

ALL = [
    ConstantSchedule(value=0.3),
    PolynomialSchedule(initial=0.2, final=0.8, begin_step=5, end_step=25),
    PolynomialSchedule(final=0.5, end_step=7, power=1.0),
    CosineSchedule(initial=8.0, final=1.0, begin_step=2, end_step=12),
    OneShotSchedule(final=0.5, step=3),
]


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_polynomial_by_hand():
    schedule = PolynomialSchedule(
        initial=0.2, final=0.8, begin_step=10, end_step=20
    )
    # Half way, 1/8 of the way is left: 0.8 - 0.6 / 8 = 0.725.
    np.testing.assert_allclose(
        values(schedule, [0, 10, 15, 20, 99]),
        [0.2, 0.2, 0.725, 0.8, 0.8],
        rtol=1e-6,
    )


def test_straight_line_by_hand():
    schedule = PolynomialSchedule(final=0.4, end_step=4, power=1.0)
    np.testing.assert_allclose(
        values(schedule, range(6)), [0, 0.1, 0.2, 0.3, 0.4, 0.4], atol=1e-7
    )


def test_cosine_by_hand():
    schedule = CosineSchedule(initial=8.0, final=2.0, end_step=4)
    quarter = 2.0 + 6.0 * (1 + math.cos(math.pi / 4)) / 2
    np.testing.assert_allclose(
        values(schedule, [0, 1, 2, 4, 5]), [8, quarter, 5, 2, 2], rtol=1e-6
    )


def test_steps_beyond_float32_integers_are_exact():
    start = 2**24 + 1
    schedule = PolynomialSchedule(
        final=1.0, begin_step=start, end_step=start + 2, power=1.0
    )
    assert values(schedule, [start, start + 1]) == [0.0, 0.5]


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_bounds_hold_and_are_reached(schedule):
    low, high = schedule.bounds()
    seen = values(schedule, range(30))
    np.testing.assert_allclose([min(seen), max(seen)], [low, high], rtol=1e-6)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_config_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(config) == schedule
    assert type(schedule).from_config(schedule.get_config()) == schedule


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_works_inside_a_compiled_step(schedule):
    step = tf.Variable(6, dtype="int64")
    compiled = tf.function(lambda: schedule(step))
    # The compiler may reorder float32 operations.
    np.testing.assert_allclose(compiled(), schedule(6), rtol=1e-6)


@pytest.mark.tfmot
def test_tfmot_schedules_are_accepted_as_they_are(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    import tensorflow_model_optimization as tfmot

    theirs = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.8, 5, 25, power=3)
    ours = schedules.get(theirs)
    for step in range(5, 26):
        np.testing.assert_allclose(
            ours(step), theirs(step)[1], rtol=1e-6, err_msg=str(step)
        )
    constant = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
    assert schedules.get(constant) == ConstantSchedule(value=0.5)
    # tfmot takes this and gives nan at step 10.
    broken = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.8, 10, 10)
    with pytest.raises(ValueError, match="`end_step`.*ConstantSchedule"):
        schedules.get(broken)


def test_one_shot_jumps_at_its_step():
    jump = OneShotSchedule(final=0.75, step=2)
    assert [float(jump(step)) for step in range(4)] == [0, 0, 0.75, 0.75]
    assert jump.bounds() == (0.0, 0.75)
    assert float(OneShotSchedule(final=0.75)(0)) == 0.75
    assert OneShotSchedule(final=-1.0).bounds() == (-1.0, 0.0)


def test_steps_out_of_order_are_refused():
    with pytest.raises(ValueError, match="begin_step=9, end_step=9"):
        PolynomialSchedule(final=1.0, begin_step=9, end_step=9)
    with pytest.raises(ValueError, match="`end_step`.*whole.*end_step=6.4"):
        PolynomialSchedule(final=1.0, end_step=6.4)
    with pytest.raises(ValueError, match="`step`.*whole number.*step=2.5"):
        OneShotSchedule(final=1.0, step=2.5)
    with pytest.raises(ValueError, match="`step` counts.*step=-1"):
        OneShotSchedule(final=1.0, step=-1)
    with pytest.raises(ValueError, match="begin_step=-1"):
        CosineSchedule(final=1.0, begin_step=-1, end_step=9)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="`power` must be positive"):
        PolynomialSchedule(final=1.0, end_step=2, power=0.0)
    with pytest.raises(ValueError, match="`final`.*final=nan"):
        PolynomialSchedule(final=math.nan, end_step=2)
    with pytest.raises(ValueError, match="`value`.*value=inf"):
        ConstantSchedule(value=math.inf)
    with pytest.raises(TypeError, match="`alpha` must be a number.*'high'"):
        schedules.get("high", argument="alpha")
    with pytest.raises(TypeError, match="True"):
        schedules.get(True)
