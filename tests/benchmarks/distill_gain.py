"""How much of the gap to its teacher a distilled MNIST student closes.

In the manner of Hinton et al. 2015 (https://arxiv.org/abs/1503.02531, section
3): a teacher good enough to teach, and multilayer perceptrons without any
regularisation that learn alone or from it, with the same images, steps, seed,
optimizer and learning rate. The paper: teacher 67 test errors, student alone
146, distilled 74, which closes 91% of the gap.

    python tests/benchmarks/distill_gain.py --data ../shared/data

The teacher is a small CNN trained on images shifted by up to 2 pixels. Each
student is trained four ways: alone or distilled, on the images as they are or
shifted as the teacher's were ("jittered"). Shifting is itself a regulariser,
so each distilled student is set against the one alone that saw the same kind
of images, and against the plain one alone as in the paper.
Finished runs are kept in --out and not repeated.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import kdtf
from kdtf.files import atomic_path

BATCH = 128
# Way of training -> whether it has a teacher, whether images are shifted.
WAYS = {
    "alone": (False, False),
    "alone jittered": (False, True),
    "distilled": (True, False),
    "distilled jittered": (True, True),
}
# Like with like, then as in the paper: the plain student is what one has.
PAIRS = (
    ("alone", "distilled"),
    ("alone jittered", "distilled jittered"),
    ("alone", "distilled jittered"),
)


def key(width, seed, way):
    distil, jitter = WAYS[way]
    return f"{width}/{seed}/{distil}/{jitter}"


def load(folder):
    with np.load(folder / "mnist.npz", allow_pickle=False) as arrays:
        return {
            part: (
                (arrays[f"x_{part}"] / 255.0).astype("float32")[..., None],
                arrays[f"y_{part}"].astype("int32"),
            )
            for part in ("train", "test")
        }


def shifted(images, generator):
    """Shifts each image by up to 2 pixels both ways, zeros moving in."""
    count = tf.shape(images)[0]
    padded = tf.pad(images, [[0, 0], [2, 2], [2, 2], [0, 0]])
    offset = generator.uniform((count, 2), 0, 5, dtype=tf.int32)
    rows = offset[:, :1] + tf.range(28)
    columns = offset[:, 1:] + tf.range(28)
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)


def batches(train, *, jitter, seed):
    x, y = map(tf.constant, train)
    generator = tf.random.Generator.from_seed(seed)
    indices = tf.data.Dataset.range(len(y)).shuffle(len(y), seed=seed)

    def take(index):
        images = tf.gather(x, index)
        if jitter:
            images = shifted(images, generator)
        return images, tf.gather(y, index)

    data = indices.batch(BATCH, drop_remainder=True).map(take)
    return data.prefetch(4)


def make_teacher():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )


def make_student(width):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(width, activation="relu"),
            layers.Dense(width, activation="relu"),
            layers.Dense(10),
        ]
    )


def train(model, data, *, epochs, learning_rate):
    steps = epochs * int(data.cardinality())
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=26,
    )
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)


def errors(model, test):
    logits = model.predict(test[0], batch_size=1000, verbose=0)
    return int((logits.argmax(-1) != test[1]).sum())


def get_teacher(data, arguments):
    path = arguments.out / f"teacher-{arguments.teacher_epochs}.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        teacher = make_teacher()
        stream = batches(data["train"], jitter=True, seed=0)
        train(
            teacher,
            stream,
            epochs=arguments.teacher_epochs,
            learning_rate=2e-3,
        )
        with atomic_path(path) as temporary:
            teacher.save(temporary)
    return keras.saving.load_model(path, compile=False)


def run_student(teacher, data, arguments, *, width, seed, way):
    distil, jitter = WAYS[way]
    keras.utils.set_random_seed(seed)
    student = make_student(width)
    learner = student
    if distil:
        learner = kdtf.Distiller(
            teacher,
            student,
            alpha=arguments.alpha,
            temperature=arguments.temperature,
        )
    stream = batches(data["train"], jitter=jitter, seed=seed)
    train(learner, stream, epochs=arguments.epochs, learning_rate=1e-3)
    return errors(student, data["test"])


def print_table(results, teacher_errors, arguments):
    print(f"\nteacher: {teacher_errors} errors of 10,000")
    print(
        f"students: {arguments.epochs} epochs, T={arguments.temperature:g}, "
        f"alpha={arguments.alpha:g}, seeds {arguments.seeds}"
    )
    for width in arguments.students:
        mean = {}
        for way in arguments.ways:
            found = [results[key(width, seed, way)] for seed in arguments.seeds]
            mean[way] = np.mean(found)
            print(f"{width}-{width} {way:20}{mean[way]:6.1f} errors   {found}")
        for alone, distilled in PAIRS:
            if alone in mean and distilled in mean:
                gap = mean[alone] - teacher_errors
                share = (mean[alone] - mean[distilled]) / gap
                print(f"  {distilled} closes {share:.0%} of the gap of {alone}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("/tmp/distill_gain")
    )
    parser.add_argument("--students", type=int, nargs="+", default=[300, 800])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS)
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--teacher-epochs", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--alpha", type=float, default=0.0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = load(arguments.data)
    teacher = get_teacher(data, arguments)
    teacher_errors = errors(teacher, data["test"])
    settings = f"{arguments.epochs}-{arguments.temperature}-{arguments.alpha}"
    path = arguments.out / f"results-{settings}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for seed in arguments.seeds:
        for width in arguments.students:
            for way in arguments.ways:
                name = key(width, seed, way)
                if name in results:
                    continue
                start = time.perf_counter()
                results[name] = run_student(
                    teacher, data, arguments, width=width, seed=seed, way=way
                )
                seconds = time.perf_counter() - start
                print(
                    f"{width} seed {seed} {way}: {results[name]} errors, "
                    f"{seconds:.0f} s",
                    flush=True,
                )
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps(results, indent=1))
    print_table(results, teacher_errors, arguments)


if __name__ == "__main__":
    main()
