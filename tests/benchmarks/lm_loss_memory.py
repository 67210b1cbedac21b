"""Peak memory and time of a language model's soft loss, whole and in chunks.

All begin with the hidden states of teacher and student and end with the
gradients of the student's hidden states and of its output projection:

keras    both logits whole, KLDivergence of two softmaxes, which is what
         keras.distillation does where it is given that loss
whole    both logits whole, kdtf's KL: a Distiller without chunks
chunked  kdtf.distillation.heads.token_losses

    python tests/benchmarks/lm_loss_memory.py [--vocabulary 128000]
        [--tokens 1024] [--width 128] [--chunk 64] [--rounds 3] [--steps 3]

Each run is a process of its own, A B C A B C; memory is the highest resident
size over the steps, less what stood in memory before the first one. The table
gives medians over rounds of ratios, with the quartiles.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from timing import describe

VARIANTS = ("keras", "whole", "chunked")
TEMPERATURE = 2.0


def resident():
    """Returns the bytes of this process that are in memory now."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def loss_of(variant, chunk):
    """Returns `(student's states and head, teacher's) -> (tokens,)`."""
    import keras

    from kdtf.distillation import heads
    from kdtf.distillation import losses

    def kl(teacher, student):
        return losses.kl_divergence(teacher, student, temperature=TEMPERATURE)

    def logits(states, head):
        return head.project(states, head.weights())

    def by_keras(student, teacher):
        loss = keras.losses.KLDivergence(reduction="none")
        softened = (
            keras.ops.softmax(logits(*side) / TEMPERATURE)
            for side in (teacher, student)
        )
        return TEMPERATURE**2 * loss(*softened)

    def in_chunks(student, teacher):
        values = heads.token_losses(
            *student, teacher=teacher, soft=kl, chunk=chunk
        )
        return values["soft"]

    return {
        "keras": by_keras,
        "whole": lambda student, teacher: kl(
            logits(*teacher), logits(*student)
        ),
        "chunked": in_chunks,
    }[variant]


def run(arguments):
    """Prints one variant's memory and times, and keeps its gradients."""
    import keras
    import tensorflow as tf

    from kdtf.distillation import heads

    rng = np.random.default_rng(0)
    shape = (1, arguments.tokens, arguments.width)

    def side():
        dense = keras.layers.Dense(arguments.vocabulary, use_bias=False)
        dense.build(shape)
        kernel = rng.normal(size=dense.kernel.shape, scale=0.2)
        dense.kernel.assign(kernel.astype("float32"))
        states = tf.constant(rng.normal(size=shape).astype("float32"))
        # Not `head_of`: what its check frees, TensorFlow's pool would keep, and
        # the steps would take it from there unseen.
        head = heads.Head(
            layer=dense,
            variables=(dense.kernel,),
            body=None,
            arguments={},
            num_outputs=arguments.vocabulary,
        )
        return states, head

    states, head = side()
    teacher = side()
    weights = tf.constant(rng.uniform(size=shape[:2]).astype("float32"))
    loss = loss_of(arguments.variant, arguments.chunk)

    @tf.function
    def step(states):
        with tf.GradientTape() as tape:
            tape.watch(states)
            value = tf.reduce_sum(weights * loss((states, head), teacher))
        return value, tape.gradient(value, [states, head.variables[0].value])

    # What was freed while the models were made is not part of the baseline.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    times = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        value, gradients = step(states)
        value.numpy()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.gradients:
        np.savez(arguments.gradients, *(g.numpy() for g in gradients))
    result = {
        "bytes": peak - before,
        # The first step compiles.
        "seconds": float(np.median(times[1:])),
        "loss": float(value) / arguments.tokens,
    }
    print(json.dumps(result))


def run_apart(variant, arguments, gradients):
    """Returns what `run` prints in a process of its own."""
    command = [sys.executable, __file__, "--variant", variant]
    for name in ("vocabulary", "tokens", "width", "chunk", "steps"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--gradients", str(gradients)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def largest_difference(path, reference):
    """Returns the largest difference over the largest entry, of each file."""
    with np.load(path) as found, np.load(reference) as expected:
        return max(
            np.abs(found[name] - expected[name]).max()
            / np.abs(expected[name]).max()
            for name in expected.files
        )


def compare(arguments):
    results = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        files = {v: pathlib.Path(folder) / f"{v}.npz" for v in VARIANTS}
        for index in range(arguments.rounds):
            for variant in VARIANTS:
                found = run_apart(variant, arguments, files[variant])
                results[variant].append(found)
                print(f"round {index + 1} {variant}: {found}", flush=True)
        differences = {
            variant: largest_difference(files[variant], files["whole"])
            for variant in VARIANTS
        }
    logits = 4 * arguments.tokens * arguments.vocabulary / 2**20
    print(
        f"\n{arguments.tokens} tokens, {arguments.vocabulary} classes, width "
        f"{arguments.width}, chunks of {arguments.chunk}; one tensor of logits "
        f"is {logits:.0f} MiB, one kernel "
        f"{4 * arguments.width * arguments.vocabulary / 2**20:.0f} MiB\n"
    )
    print("| | peak MiB | s / step | loss | gradient's difference |")
    print("|---|---|---|---|---|")
    for variant, found in results.items():
        size = np.median([r["bytes"] for r in found]) / 2**20
        seconds = np.median([r["seconds"] for r in found])
        print(
            f"| {variant} | {size:.0f} | {seconds:.2f} | "
            f"{found[0]['loss']:.5f} | {differences[variant]:.1e} |"
        )
    for key in ("bytes", "seconds"):
        table = {v: np.array([r[key] for r in results[v]]) for v in VARIANTS}
        for other in ("keras", "whole"):
            ratios = describe(table["chunked"] / table[other])
            print(f"{key}: chunked / {other} = {ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help="one, alone")
    parser.add_argument("--gradients", help="file for its gradients")
    arguments = parser.parse_args()
    if arguments.variant:
        run(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
