"""A model that does not run on the samples itself."""

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite


def test_ids_outside_a_table_are_told(tmp_path):
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, keras.layers.Embedding(4, 2)(ids))
    with pytest.raises(
        ExportError, match=r"itself must run.*= 9 is not in \[0, 4\)"
    ) as caught:
        export_tflite(
            model, tmp_path / "m.tflite", verify_data=np.full((2, 3), 9)
        )
    # No colours, and not all arguments of the layer.
    assert "\x1b" not in str(caught.value)
    assert "Arguments received" not in str(caught.value)
    assert "2 samples of verify_data" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
