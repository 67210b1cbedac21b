"""The demo's language model at half of its parameters.

    python tests/benchmarks/shrink_lm.py --out DIR

The demo's teacher is shrunk (`--keep` of its parameters; neurons by weights
and inputs, blocks by what they turn), taught by itself for `--epochs`, and
judged by perplexity on held-out text. Beside it, in as many steps: the same
small architecture from new weights, taught the same way; and the shrunk one
trained on the labels alone.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kdtf
from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.recipes import demo_text


def trained_teacher(folder, corpus, settings):
    path = folder / "teacher.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        model = demo_text.build_model(settings, corpus, settings.teacher)
        demo_text.fit_text(
            model,
            corpus,
            settings,
            settings.teacher_epochs,
            settings.teacher_learning_rate,
            verbose=0,
        )
        model.save(path)
    return keras.saving.load_model(path, compile=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--what", nargs="+", default=["width", "depth"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = demo_text.TextSettings(seed=0)
    corpus = demo_text.read_corpus(settings)
    test = demo_text.text_inputs(corpus.test[0]), corpus.test[1]
    teacher = trained_teacher(arguments.out, corpus, settings)

    def perplexity(model):
        row = kdtf.compare(
            {"it": model},
            test,
            metrics=[demo_text.perplexity()],
            latency_runs=0,
        )["it"]
        (value,) = row.metrics.values()
        return value

    plan = kdtf.plan_shrink(
        teacher,
        arguments.keep,
        what=arguments.what,
        criterion="wanda",
        data=demo_text.text_inputs(corpus.train[0][:64]),
    )
    print(plan)
    top = perplexity(teacher)
    print(
        f"teacher {top:.3f}; shrunk, not taught {perplexity(plan.build()):.3f}"
    )

    def fresh(smaller):
        config = backbone_of(smaller).get_config()
        return resized(smaller, {"num_layers": config["num_layers"]})

    ways = {
        "shrunk, taught": (lambda: plan.build(), True),
        "shrunk, labels alone": (lambda: plan.build(), False),
        "new weights, taught": (lambda: fresh(plan.build()), True),
    }
    print(f"{'':24}{'perplexity':>12}{'of teacher':>12}{'s':>6}")
    for name, (make, is_taught) in ways.items():
        for seed in arguments.seeds:
            start = time.perf_counter()
            keras.utils.set_random_seed(seed)
            student = make()
            # Else a model that is trained by itself would take text.
            student.preprocessor = None
            trained = student
            if is_taught:
                trained = kdtf.Distiller(
                    teacher, student, alpha=arguments.alpha, temperature=1.0
                )
            demo_text.fit_text(
                trained,
                corpus,
                settings,
                arguments.epochs,
                arguments.rate,
                verbose=0,
            )
            found = perplexity(student)
            seconds = time.perf_counter() - start
            print(
                f"{name:24}{found:12.3f}{found / top:12.1%}{seconds:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
