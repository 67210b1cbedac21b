"""Who teaches whom: assistants, generations, and students among themselves."""

import collections
import itertools
import numbers
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from kdtf import batches
from kdtf.distillation import checks
from kdtf.distillation.distiller import Distiller

__all__ = ["assistant_chain", "born_again", "mutual"]


def assistant_chain(
    models: Sequence[Any], fit: Callable[[Any], Any], **distiller: Any
) -> Any:
    """Distils through assistants: each model is taught by the one before it.

    Where the teacher is far larger than the student, the student learns more
    from one of a size in between. All but the first are trained in place, so
    the assistants are there afterwards, in `models`.

    Args:
        models: Built models from the largest, the trained teacher, to the
            smallest, the student; with assistants at least three.
        fit: `fit(distiller)` compiles and fits one `kdtf.Distiller`; its
            `student` is the model in training.
        **distiller: For each `kdtf.Distiller`: `alpha`, `temperature` ....
            All are made, and so checked, before the first training.

    Returns:
        The last model, trained.

    Raises:
        TypeError: One is no Keras model, or `fit` is not callable.
        ValueError: There are fewer than two, one is larger than its teacher,
            or two share weights that would be trained.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(4, dtype="float32"), np.arange(4)
        >>> def mlp(width):
        ...     layers = [keras.layers.Dense(width), keras.layers.Dense(4)]
        ...     return keras.Sequential([keras.Input((4,)), *layers])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> taught = []
        >>> def fit(distiller):
        ...     distiller.compile("adam", loss=loss)
        ...     distiller.fit(x, y, verbose=0)
        ...     taught.append(distiller.student.count_params())
        >>> teacher, assistant, student = mlp(16), mlp(8), mlp(4)
        >>> smallest = assistant_chain([teacher, assistant, student], fit)
        >>> smallest is student, taught
        (True, [76, 40])

    Reference:
        Mirzadeh et al. 2020, https://arxiv.org/abs/1902.03393
    """
    models = _models(models)
    _check_callable("fit", fit)
    sizes = [model.count_params() for model in models]
    if any(b > a for a, b in itertools.pairwise(sizes)):
        raise ValueError(
            "`models` must go from the largest, the trained teacher, to the "
            f"smallest. Received: models of {sizes} parameters. Turn them "
            "round; to teach a larger model use `kdtf.Distiller`."
        )
    _run(_chain(models, distiller), fit)
    return models[-1]


def born_again(
    build: Callable[[], Any],
    fit: Callable[[Any], Any],
    *,
    generations: int,
    teacher: Any = None,
    **distiller: Any,
) -> list[Any]:
    """Trains a model again and again, each time taught by its predecessor.

    A student as large as its teacher often surpasses it. In the paper it
    learns from the teacher alone (`alpha=0`) or from the labels too, with
    `temperature=1`. Together the generations are better still: average their
    probabilities, or distil from all of them at once with
    `kdtf.Distiller(models[1:], student)`, which does so.

    Args:
        build: Gives a fresh, built model; called for all generations before
            the first is trained. `keras.utils.set_random_seed` before
            `born_again` decides all their initial weights.
        fit: `fit(model)` compiles and fits a model, or the `kdtf.Distiller`
            around one: they are trained alike.
        generations: How many are born of the first one, at least 1.
        teacher: The first one, if it is trained already. Defaults to one
            that is built and trained on the labels, without a Distiller.
        **distiller: As for `assistant_chain`.

    Returns:
        All `1 + generations` models, the first teacher before the others.

    Raises:
        TypeError: `build` or `fit` is not callable, or a model is none.
        ValueError: `generations` is below 1, or `build` gives models that
            share weights.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(4, dtype="float32"), np.arange(4)
        >>> def build():
        ...     return keras.Sequential([keras.Input((4,)),
        ...                              keras.layers.Dense(4)])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> def fit(model):
        ...     model.compile("adam", loss=loss)
        ...     model.fit(x, y, verbose=0)
        >>> models = born_again(build, fit, generations=2, temperature=1.0)
        >>> ensemble = Distiller(models[1:], build(), temperature=1.0)
        >>> len(models), len(ensemble.teacher)
        (3, 2)

    Reference:
        Furlanello et al. 2018, https://arxiv.org/abs/1805.04770
    """
    _check_callable("build", build)
    _check_callable("fit", fit)
    _check_count("generations", generations)
    first = build() if teacher is None else teacher
    models = [first, *(build() for _ in range(generations))]
    stages = _chain(_models(models), distiller)
    if teacher is None:
        stages.insert(0, first)
    _run(stages, fit)
    return models


def mutual(
    students: Sequence[Any],
    compile_one: Callable[[Any], Any],
    dataset: Any,
    *,
    epochs: int = 1,
    validation_data: Any = None,
    verbose: Any = "auto",
    **distiller: Any,
) -> list[Any]:
    """Trains students that teach each other, without any other teacher.

    On each batch one student after the other takes a step; its teacher is
    the mean of the others' probabilities, in inference mode and as they are
    by then: those before it have taken their step already, as in the paper.

    The paper minimises CE + KL at T = 1, of several others the mean of the
    KLs, whose gradient is that of the KL to the mean. `alpha=0.5` and
    `temperature=1`, the defaults here, are half of that: the same steps with
    Adam, and with SGD at twice the learning rate.

    Args:
        students: Two or more built models with the same classes, of different
            initial weights; alike or not. Trained in place.
        compile_one: `compile_one(distiller)` compiles the `kdtf.Distiller` of
            one student, with an optimizer of its own.
        dataset: A finite `tf.data.Dataset` of batches `(x, y)` or `(x, y,
            sample_weight)`; shuffle it there.
        epochs: Passes over the dataset.
        validation_data: What each student is evaluated on after each pass:
            anything that `evaluate` takes as `x`. Defaults to nothing.
        verbose: 0 is silent, 1 or "auto" shows a bar, 2 a line per pass.
        **distiller: For each `kdtf.Distiller`; `features` for two students.

    Returns:
        A `keras.callbacks.History` for each student. A pass's values are the
        means of its batches' by size, as Keras has it for losses and
        accuracy; metrics that are no means, such as AUC, are exact only in
        the "val_" ones.

    Raises:
        TypeError: A student is no Keras model, `compile_one` is not callable,
            or `dataset` is none.
        ValueError: There are fewer than two students, some share weights or
            an optimizer, or the dataset is empty or never ends.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> data = np.eye(4, dtype="float32"), np.arange(4)
        >>> dataset = tf.data.Dataset.from_tensor_slices(data).batch(2)
        >>> def mlp(width):
        ...     layers = [keras.layers.Dense(width), keras.layers.Dense(4)]
        ...     return keras.Sequential([keras.Input((4,)), *layers])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> first, second = mutual(
        ...     [mlp(4), mlp(8)],
        ...     lambda distiller: distiller.compile("adam", loss=loss),
        ...     dataset, epochs=3, verbose=0)
        >>> sorted(first.history), len(second.history["loss"])
        (['hard_loss', 'loss', 'soft_loss'], 3)

    Reference:
        Zhang et al. 2018, https://arxiv.org/abs/1706.00384 (algorithm 1)
    """
    students = _models(students)
    _check_callable("compile_one", compile_one)
    _check_count("epochs", epochs)
    if not batches.is_dataset(dataset):
        raise TypeError(
            "`dataset` must be a `tf.data.Dataset` of batches. Received: "
            f"dataset of type {type(dataset).__name__}. Make one of arrays by "
            "`tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))"
            ".batch(32)`."
        )
    settings = {"alpha": 0.5, "temperature": 1.0, **distiller}
    distillers = []
    for student in students:
        others = [one for one in students if one is not student]
        # Features are matched with one teacher, not with a list of one.
        teacher = others if len(others) > 1 else others[0]
        distillers.append(Distiller(teacher, student, **settings))
    for one in distillers:
        compile_one(one)
    _check_optimizers(distillers)
    return _train(distillers, dataset, epochs, validation_data, verbose)


def _models(models: Sequence[Any]) -> list[Any]:
    """Returns two or more models that can be trained apart."""
    models = list(models)
    if len(models) < 2:
        raise ValueError(
            "There must be two models or more, so that one teaches another. "
            f"Received: {len(models)}."
        )
    for index, model in enumerate(models):
        checks.check_model(f"models[{index}]", model)
    for (i, a), (j, b) in itertools.combinations(enumerate(models), 2):
        trained = {id(v) for v in a.trainable_variables + b.trainable_variables}
        shared = {id(v) for v in a.variables} & {id(v) for v in b.variables}
        if a is b or shared & trained:
            raise ValueError(
                "Models must not share weights, or a teacher would change "
                f"with its student. Received: models[{i}]={a.name!r} and "
                f"models[{j}]={b.name!r}, which do. Build each one anew, or "
                "set `trainable=False` on layers that they share."
            )
    return models


def _chain(models: list[Any], settings: dict[str, Any]) -> list[Any]:
    """Returns a Distiller for each model but the first, in turn."""
    return [
        Distiller(teacher, student, **settings)
        for teacher, student in itertools.pairwise(models)
    ]


def _run(stages: list[Any], fit: Callable[[Any], Any]) -> None:
    # Let go of one by one: each holds an optimizer, twice its model's size.
    while stages:
        fit(stages.pop(0))


def _train(
    distillers: list[Any], dataset: Any, epochs: int, held_out: Any, show: Any
) -> list[Any]:
    """Trains students in step; returns their histories."""
    histories = [keras.callbacks.History() for _ in distillers]
    for history, one in zip(histories, distillers, strict=True):
        history.set_model(one)
        history.on_train_begin()
    steps = int(dataset.cardinality())
    bar = keras.callbacks.ProgbarLogger()
    # Negative where tf.data cannot tell.
    target = steps if steps > 0 else None
    bar.set_params({"verbose": show, "epochs": epochs, "steps": target})
    for epoch in range(epochs):
        bar.on_epoch_begin(epoch)
        logs = _pass(distillers, dataset, bar)
        for one, own in zip(distillers, logs, strict=True):
            if held_out is not None:
                results = one.evaluate(held_out, verbose=0, return_dict=True)
                own |= {f"val_{name}": v for name, v in results.items()}
        bar.on_epoch_end(epoch, _numbered(logs))
        for history, own in zip(histories, logs, strict=True):
            history.on_epoch_end(epoch, own)
    return histories


def _pass(
    distillers: list[Any], dataset: Any, bar: Any
) -> list[dict[str, float]]:
    """Takes all students once through the data; returns their mean logs."""
    sums: list[dict[str, float]] = [
        collections.defaultdict(float) for _ in distillers
    ]
    seen = 0
    for step, batch in enumerate(batches.iterate_batches(dataset)):
        size = batches.num_examples_of(batch.x)
        data = batches.to_tensors(batch)
        for one, own in zip(distillers, sums, strict=True):
            logs = one.train_on_batch(
                data.x, data.y, data.sample_weight, return_dict=True
            )
            for name, value in logs.items():
                own[name] += size * float(value)
        seen += size
        means = [{n: v / seen for n, v in own.items()} for own in sums]
        bar.on_train_batch_end(step, _numbered(means))
    return means


def _numbered(logs: list[dict[str, float]]) -> dict[str, float]:
    """Returns what the bar shows of all students: not the losses' parts."""
    return {
        f"{name}_{index}": value
        for index, own in enumerate(logs)
        for name, value in own.items()
        if name not in ("hard_loss", "soft_loss")
    }


def _check_callable(argument: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(
            f"`{argument}` must be a function. Received: {argument}={value!r}."
        )


def _check_count(argument: str, value: Any) -> None:
    is_count = isinstance(value, numbers.Integral) and value is not True
    if not is_count or value < 1:
        raise ValueError(
            f"`{argument}` must be an integer of at least 1. Received: "
            f"{argument}={value!r}."
        )


def _check_optimizers(distillers: list[Any]) -> None:
    found = [getattr(one, "optimizer", None) for one in distillers]
    if None in found or len({id(one) for one in found}) < len(found):
        raise ValueError(
            "`compile_one` must compile each Distiller with an optimizer of "
            f"its own. Received: optimizers {found}. Make it inside of "
            "`compile_one`."
        )
