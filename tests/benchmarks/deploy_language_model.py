"""Exported language models against Keras: size, quality, speed, memory.

Each row is a process of its own, which is asked for one text at a time, in
turn with the others; tokens per second count reading the prompt too. Keras
generates with its own cache, compiled by XLA; "keras litert" is Keras's
`model.export(format="litert")`, which has no cache and computes the whole
window for each token. Perplexity is that of held-out text, read token by
token through the file. "int4_gptq" is quantized before the export: 4 bits in
blocks of 32 by GPTQ, 8 for the table of embeddings, which is the output, too.
A mode whose file the export refuses has no row.

    python tests/benchmarks/deploy_language_model.py --model demo --out DIR
    python tests/benchmarks/deploy_language_model.py --model PRESET_DIR \
        --data ../shared/data --out DIR

PRESET_DIR has a Llama, its tokenizer.json, and WikiText-2 lies in --data.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

GPTQ = "int4_gptq"
# It changes the model, and so comes last.
MODES = ("float", "dynamic_int8", "int4_block32", "int4", GPTQ)
GPTQ_SCHEME = {"*embeddings": "dynamic_int8", "*": "int4_block32"}
QUESTION = "What is the capital of France?"


def load_model(arguments):
    """Returns a model, its tokenizer, and windows to measure and to test on."""
    import keras
    from language_models import demo_model
    from language_models import preset_model

    if arguments.model == "demo":
        _, (data, _), test = demo_model(arguments)
        path = arguments.out / f"seed-{arguments.seed}/text/teacher.keras"
        model, tokenizer = keras.saving.load_model(path), "auto"
    else:
        arguments.preset = pathlib.Path(arguments.model)
        model, (data, _), test = preset_model(arguments)
        tokenizer = arguments.preset / "tokenizer.json"
    return model, tokenizer, data[: arguments.calibration], test


def prepare(arguments):
    """Exports what is not there yet, and writes down what to read."""
    import kdtf

    model, tokenizer, data, (x, y) = load_model(arguments)
    windows = np.concatenate([x, y[:, -1:]], 1)[: arguments.windows]
    np.save(arguments.out / "windows.npy", windows[:, : arguments.length])
    path = arguments.out / "keras-litert.tflite"
    if not arguments.no_litert and not path.exists():
        # Even detached the tokenizer's tables would come along, as Flex.
        plain = type(model)(model.backbone, preprocessor=None)
        plain.export(str(path), format="litert", verbose=False)
    modes = {"float": None, GPTQ: "dynamic_int8"}
    for mode in sorted(arguments.modes, key=MODES.index):
        path = arguments.out / f"{mode}.tflite"
        if path.exists():
            continue
        if mode == GPTQ:
            inputs = {"token_ids": data, "padding_mask": np.ones_like(data)}
            kdtf.quantize(model, GPTQ_SCHEME, inputs, method="gptq")
        try:
            result = kdtf.export_language_model(
                model,
                path,
                quantize=modes.get(mode, mode),
                max_length=arguments.length,
                tokenizer=tokenizer,
            )
        except kdtf.ExportError as error:
            result = f"{mode}: refused: {error}"
        print(result, flush=True)


def log_loss(logits, token):
    logits = logits.astype("float64")
    highest = logits.max()
    return float(
        np.log(np.exp(logits - highest).sum()) + highest - logits[token]
    )


def file_worker(arguments):
    """Gives a writer over an exported file, and its perplexity."""
    from kdtf.export.language_model import LanguageModelRunner

    runner = LanguageModelRunner(arguments.worker)

    def write(ids):
        tokens = runner.generate_ids(ids, max_tokens=arguments.new, stop=[])
        return list(tokens)

    def perplexity(windows):
        losses = []
        for window in windows.tolist():
            runner.reset()
            for token, after in zip(window[:-1], window[1:], strict=True):
                losses.append(log_loss(runner.logits([token]), after))
        return float(np.exp(np.mean(losses)))

    return write, perplexity


def padded(ids, length):
    tokens = np.zeros((1, length), "int32")
    tokens[0, : len(ids)] = ids
    return tokens, (np.arange(length) < len(ids))[None].astype("int32")


def keras_worker(arguments):
    """Gives Keras's own `generate`, and its perplexity."""
    model = load_model(arguments)[0]
    model.preprocessor = None
    model.compile(sampler="greedy")

    def write(ids):
        length = len(ids) + arguments.new
        tokens, mask = padded(ids, length)
        inputs = {"token_ids": tokens, "padding_mask": mask}
        made = model.generate(inputs, stop_token_ids=None)
        return np.asarray(made["token_ids"])[0, len(ids) :].tolist()

    def perplexity(windows):
        losses = []
        for window in windows:
            ids = window[None, :-1]
            inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
            logits = np.asarray(model(inputs, training=False))[0]
            pairs = zip(logits, window[1:], strict=True)
            losses += [log_loss(row, token) for row, token in pairs]
        return float(np.exp(np.mean(losses)))

    return write, perplexity


def litert_worker(arguments):
    """Gives a writer over Keras's export, which knows no cache."""
    from kdtf.litert import Runner

    runner = Runner(arguments.worker)

    def write(ids):
        length = len(ids) + arguments.new
        tokens, mask = padded(ids, length)
        for place in range(len(ids), length):
            names = runner.input_specs
            inputs = {n: mask if "mask" in n else tokens for n in names}
            logits = next(iter(runner(inputs).values()))
            tokens[0, place] = logits[0, place - 1].argmax()
            mask[0, place] = 1
        return tokens[0, len(ids) :].tolist()

    return write, None


def serve(arguments):
    """Answers one request for each line on standard input."""
    kinds = {"keras": keras_worker, "keras-litert": litert_worker}
    kind = kinds.get(pathlib.Path(arguments.worker).stem, file_worker)
    write, perplexity = kind(arguments)
    windows = np.load(arguments.out / "windows.npy")
    for line in sys.stdin:
        answer = {}
        if line.strip() == "perplexity":
            answer["perplexity"] = perplexity(windows) if perplexity else None
            status = pathlib.Path("/proc/self/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1])
            answer["peak_mb"] = peak / 1000
        else:
            ids = windows[0, : arguments.prompt].tolist()
            start = time.perf_counter()
            answer["tokens"] = write(ids)
            answer["speed"] = arguments.new / (time.perf_counter() - start)
        print("ANSWER" + json.dumps(answer), flush=True)


class Row:
    """A process that answers, and what it answered."""

    def __init__(self, worker):
        command = [sys.executable, *sys.argv, "--worker", str(worker)]
        self.name = pathlib.Path(worker).stem
        self.size = pathlib.Path(worker).stat().st_size if worker else 0
        self.speeds = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line.removeprefix("ANSWER"))
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}")


def measure(arguments):
    files = [arguments.out / f"{mode}.tflite" for mode in arguments.modes]
    files = [file for file in files if file.exists()]
    if not arguments.no_litert:
        files.append(arguments.out / "keras-litert.tflite")
    (arguments.out / "keras").touch()
    rows = [Row(worker) for worker in (arguments.out / "keras", *files)]
    # Once to warm up: Keras compiles.
    tokens = {row.name: row.ask("write")["tokens"] for row in rows}
    for _ in range(arguments.rounds):
        for row in rows:
            row.speeds.append(row.ask("write")["speed"])
    print(
        f"{'':14} {'MB':>8} {'perplexity':>11} {'tokens/s':>9} "
        f"{'from':>7} {'to':>7} {'peak MB':>8}  tokens as Keras"
    )
    for row in rows:
        facts = row.ask("perplexity")
        row.process.stdin.close()
        row.process.wait()
        pairs = zip(tokens[row.name], tokens["keras"], strict=True)
        same = sum(a == b for a, b in pairs)
        found = facts["perplexity"]
        print(
            f"{row.name:14} {row.size / 1e6:8.2f} "
            f"{'-' if found is None else f'{found:.2f}':>11} "
            f"{statistics.median(row.speeds):9.1f} {min(row.speeds):7.1f} "
            f"{max(row.speeds):7.1f} {facts['peak_mb']:8.0f}  "
            f"{same}/{arguments.new}",
            flush=True,
        )


def chat(arguments):
    from kdtf.export.language_model import LanguageModelRunner

    path = arguments.out / "dynamic_int8.tflite"
    runner = LanguageModelRunner(path) if path.exists() else None
    if runner is None or runner.settings.chat is None:
        return
    pieces = runner.generate(QUESTION, chat=True, max_tokens=60)
    print(f"int8, asked {QUESTION!r}: {''.join(pieces)!r}\n{runner.stats}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-litert", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.worker:
        serve(arguments)
    elif arguments.prepare:
        prepare(arguments)
    else:
        # In a process of its own, whose memory is free again after it.
        command = [sys.executable, *sys.argv, "--prepare"]
        subprocess.run(command, check=True)
        measure(arguments)
        chat(arguments)


if __name__ == "__main__":
    main()
