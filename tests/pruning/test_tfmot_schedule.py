"""kdtf's schedules in tfmot's form: the same values, and when masks change."""

import numpy as np
import pytest

from kdtf import schedules
from kdtf.pruning.tfmot_models import TfmotSchedule
from kdtf.transforms.tfmot_models import load_tfmot

pytestmark = pytest.mark.tfmot

RAMP = schedules.PolynomialSchedule(
    initial=0.25, final=0.75, begin_step=1, end_step=7
)


@pytest.mark.parametrize(
    "schedule",
    [
        RAMP,
        schedules.CosineSchedule(final=0.5, begin_step=2, end_step=9),
        schedules.OneShotSchedule(final=0.5, step=4),
        schedules.ConstantSchedule(value=0.5),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_schedule_has_the_same_value_at_every_step(schedule):
    adapter = TfmotSchedule(schedule=schedule, frequency=3)
    for step in range(12):
        assert float(adapter(step)[1]) == float(schedule(step))
    copy = TfmotSchedule.from_config(adapter.get_config()["config"])
    assert copy == adapter


def test_updates_are_due_every_frequency_steps_and_at_the_end():
    def due(schedule):
        adapter = TfmotSchedule(schedule=schedule, frequency=4)
        return [step for step in range(16) if bool(adapter(step)[0])]

    class Forever(schedules.Schedule):
        def __call__(self, step):
            return step

        def bounds(self):
            return 0.0, 0.5

    assert due(RAMP) == [0, 1, 5, 7]
    assert due(schedules.OneShotSchedule(final=0.5, step=6)) == [0, 6]
    assert due(schedules.ConstantSchedule(value=0.5)) == [0, 4, 8, 12]
    assert due(Forever()) == [0, 4, 8, 12]


def test_polynomial_is_the_one_of_tfmot():
    tfmot = load_tfmot()
    theirs = tfmot.sparsity.keras.PolynomialDecay(0.25, 0.75, 1, 7)
    ours = TfmotSchedule(schedule=RAMP)
    for step in range(1, 9):
        assert float(ours(step)[1]) == pytest.approx(
            float(theirs(np.int64(step))[1]), abs=1e-6
        )
