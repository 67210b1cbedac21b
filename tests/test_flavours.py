"""The two Kerases are told apart without importing the second."""

import subprocess
import sys

import keras
import pytest

from kdtf import flavours


def test_each_flavour_is_recognised():
    import tf_keras

    modern = keras.Sequential([keras.layers.Dense(1)])
    legacy = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    assert flavours.flavour_of(modern) == "keras"
    assert flavours.flavour_of(legacy) == "tf_keras"
    assert not flavours.is_keras_model(legacy)
    assert not flavours.is_tf_keras_model(modern)


def test_asking_does_not_import_tf_keras():
    code = (
        "import sys, keras; from kdtf import flavours; "
        "flavours.flavour_of(keras.Sequential()); "
        "print('tf_keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_anything_else_is_refused_by_the_arguments_name():
    with pytest.raises(TypeError, match="`teacher`.*3 of type builtins.int"):
        flavours.flavour_of(3, argument="teacher")
