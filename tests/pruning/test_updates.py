import pytest

from kdtf import schedules
from kdtf.pruning.updates import Updates
from kdtf.pruning.updates import updates_of


def due(updates, steps=31):
    return [step for step in range(steps) if bool(updates.is_due(step))]


def test_a_ramp_is_followed_to_its_very_end():
    ramp = schedules.PolynomialSchedule(final=0.8, begin_step=3, end_step=25)
    assert due(updates_of(ramp, 10)) == [3, 13, 23, 25]
    cosine = schedules.CosineSchedule(final=0.8, begin_step=0, end_step=20)
    assert due(updates_of(cosine, 10)) == [0, 10, 20]


def test_a_jump_is_due_once():
    jump = schedules.OneShotSchedule(final=0.5, step=7)
    assert due(updates_of(jump, 2)) == [7]


def test_a_constant_is_due_for_ever():
    constant = schedules.ConstantSchedule(value=0.5)
    assert due(updates_of(constant, 10)) == [0, 10, 20, 30]


def test_a_schedule_of_the_users_own_is_due_for_ever():
    class Mine(schedules.Schedule):
        pass

    assert due(updates_of(Mine(), 15)) == [0, 15, 30]


def test_frequency_must_be_a_whole_number_from_1():
    with pytest.raises(ValueError, match="`frequency`.*frequency=0"):
        Updates(frequency=0)
    with pytest.raises(ValueError, match="frequency=2.5"):
        updates_of(schedules.ConstantSchedule(value=0.5), 2.5)
