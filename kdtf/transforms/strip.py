"""`strip`: a plain model again, with the effects baked in."""

from typing import Any

from kdtf.flavours import flavour_of
from kdtf.transforms import attach
from kdtf.transforms.substitution import substitutions

__all__ = ["strip"]


def strip(model: Any) -> Any:
    """Bakes what kdtf does to the weights into them, and takes it off.

    Pruned weights become exact zeros (also where an optimizer's moving
    average had filled them), and nothing of kdtf is left: plain Keras saves,
    loads and trains the model. Training goes on without masks, so zeros fill
    up again; a model that contains this one must be compiled again. Weights
    put back from before the last update (`restore_best_weights`) are masked as
    of that update. Stripping a plain model changes nothing.

    Args:
        model: A model of Keras 3, changed in place, or of `tf_keras`.

    Returns:
        The model; of `tf_keras` a new one without tfmot's wrappers, to be
        compiled anew.

    Raises:
        TypeError: `model` is no Keras model.

    Example:
        >>> import keras, kdtf
        >>> layers = [keras.Input((4,)), keras.layers.Dense(4)]
        >>> model = kdtf.prune(keras.Sequential(layers), 0.5)
        >>> model is kdtf.strip(model)
        True
        >>> int((model.get_weights()[0] == 0).sum())
        8
    """
    if flavour_of(model) == "tf_keras":
        from kdtf.transforms import tfmot_models

        return tfmot_models.strip(model)
    for variable, attachment in list(attach.attachments(model)):
        attachment.bake(variable)
        variable.constraint = attachment.inner
    # Masks first: a grid has a level for their zeros.
    for _, substitution in list(substitutions(model)):
        substitution.bake()
    attach.forget(model)
    return model
