"""SmolLM2-135M teaches a student of a quarter of its size, from a cache.

The teacher's likeliest tokens over WikiText-2's validation text are cached
(in a process that is killed on the way and started again), then the teacher
is dropped. Two students, the teacher's embeddings and some of its layers,
are trained on the same tokens: on the labels alone, and from the cache.
Perplexity is on WikiText-2's test text, in windows.

    python tests/benchmarks/distill_smol.py --preset DIR --data DIR --out DIR

--preset is a folder with the model as Keras or Hugging Face keep it.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from language_models import inputs
from language_models import perplexity
from language_models import preset_model

import kdtf


def batches(windows, size):
    x, y = windows
    data = tf.data.Dataset.from_tensor_slices((inputs(x), y))
    return data.batch(size, drop_remainder=True)


def cached(arguments, teacher, train):
    return kdtf.cache_teacher(
        teacher,
        batches(train, arguments.batch),
        arguments.out / "cache",
        top_k=arguments.top_k,
        shard_megabytes=arguments.shard,
    )


def kill_on_the_way(arguments):
    """Starts the caching in another process, and kills it half-way."""
    shards = arguments.out / "cache"
    worker = subprocess.Popen([sys.executable, *sys.argv, "--cache-only"])
    while worker.poll() is None and len(list(shards.glob("*.tfrecord"))) < 2:
        time.sleep(1)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    done = sum(path.stat().st_size for path in shards.glob("*.tfrecord"))
    print(f"killed with {done / 1e6:.1f} MB of shards on disk", flush=True)


def fit(model, data, arguments, rows):
    steps = arguments.epochs * (rows // arguments.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=arguments.rate, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    start = time.perf_counter()
    data = data.shuffle(rows // arguments.batch, seed=arguments.seed)
    model.fit(data, epochs=arguments.epochs, shuffle=False, verbose=2)
    tokens = steps * arguments.batch * 256
    return tokens / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--calibration", type=int, default=800)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--shard", type=float, default=8)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.cache_only:
        kill_on_the_way(arguments)
    teacher, train, test = preset_model(arguments)
    start = time.perf_counter()
    cache = cached(arguments, teacher, train)
    if arguments.cache_only:
        return
    seconds = time.perf_counter() - start
    print(
        f"cached {train[0].size:,} tokens; after the kill {seconds:.0f} s; "
        f"{cache.bytes_per_token:.0f} bytes a token, "
        f"{cache.bytes / 1e6:.1f} MB",
        flush=True,
    )
    print(
        f"teacher: {teacher.count_params():,} parameters, perplexity "
        f"{perplexity(teacher, test):.2f}",
        flush=True,
    )

    students = {}
    for name in ("alone", "distilled"):
        keras.utils.set_random_seed(arguments.seed)
        students[name] = kdtf.distillation.student_of(
            teacher, num_layers=arguments.layers
        )
    print(
        f"students: {students['alone'].count_params():,} parameters, "
        f"perplexity before training {perplexity(students['alone'], test):.2f}",
        flush=True,
    )
    del teacher
    rows, data = len(train[0]), batches(train, arguments.batch)
    speed = fit(students["alone"], data, arguments, rows)
    found = perplexity(students["alone"], test)
    print(f"alone      {found:9.2f}  {speed:7.0f} tokens/s", flush=True)
    distiller = kdtf.Distiller(
        cache, students["distilled"], alpha=arguments.alpha, temperature=1.0
    )
    speed = fit(distiller, cache.attach(data), arguments, rows)
    found = perplexity(students["distilled"], test)
    print(f"distilled  {found:9.2f}  {speed:7.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
