"""Exports random small architectures; each file is verified or refused.

    python tests/benchmarks/deploy_fuzz.py --number 500 --log fuzz.jsonl

A refusal must be an ExportError or a ValueError of kdtf's own, in its words
("... Received: ..."). Anything else is a fault: another exception, an error of
TensorFlow that came through, a process that died or hung. Runs in a process of
its own, so that one that dies is counted; a log that exists is continued.
Ends with the number of faults (255 at most).
"""

import argparse
import collections
import faulthandler
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A process grows by some MB with each export.
SEEDS_IN_A_PROCESS = 40
TIME_LIMIT_SECONDS = 300
FAULTS = ("raised", "unclear", "died")


def arguments_for(rng, samples):
    """Draws how to export."""
    target, mode = [
        ("float", None),
        ("float", "float16"),
        ("android", None),
        ("android", "float16"),
        ("android", "dynamic_int8"),
        ("android", "int8"),
        ("android", "int8"),
        ("android", "int4"),
        ("android", "int4_block32"),
        ("iot", "int8"),
        ("iot", None),
    ][rng.integers(11)]
    arguments = {"target": target, "quantize": mode}
    if target == "android" and mode in (None, "int8") and rng.random() < 0.1:
        arguments["sparse"] = True
    if mode == "int8" or target == "iot":
        arguments["representative_data"] = samples
    elif rng.random() < 0.5:
        arguments["verify_data"] = samples
    return arguments


def examine(seed, folder):
    """Returns what became of one seed's model, as a flat dict."""
    import keras
    import numpy as np
    from random_models import draw_model

    import kdtf

    drawn = draw_model(seed)
    rng = np.random.default_rng([seed, 2])
    samples = tuple(drawn.samples.values())
    arguments = arguments_for(rng, samples if len(samples) > 1 else samples[0])
    facts = {
        "seed": seed,
        "flavour": drawn.flavour,
        "steps": drawn.steps,
        **{k: v for k, v in arguments.items() if not k.endswith("data")},
        "data": any(key.endswith("data") for key in arguments),
    }
    start = time.perf_counter()
    path = pathlib.Path(folder, f"{seed}.tflite")
    try:
        result = kdtf.export_tflite(drawn.model, path, **arguments)
        facts |= {"outcome": "exported", "warnings": list(result.warnings)}
        facts["sqnr_db"] = result.sqnr_db
        path.unlink()
    except (kdtf.ExportError, ValueError) as error:
        facts |= judge(error)
    except Exception as error:
        facts |= {"outcome": "raised", "error": told(error)}
    if list(pathlib.Path(folder).iterdir()):
        facts |= {"outcome": "unclear", "error": "a file was left behind"}
    keras.backend.clear_session()
    return facts | {"seconds": round(time.perf_counter() - start, 2)}


def judge(error):
    """Tells a refusal in kdtf's words from an error that came through."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_ours = f"{os.sep}kdtf{os.sep}" in last
    is_clear = is_ours and "Received" in str(error)
    outcome = "refused" if is_clear else "unclear"
    return {"outcome": outcome, "error": told(error)}


def told(error):
    return f"{type(error).__name__}: {error}"


def work(seeds):
    """Prints one line for each seed; runs in a process of its own."""
    out = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            faulthandler.dump_traceback_later(TIME_LIMIT_SECONDS, exit=True)
            print(json.dumps(examine(seed, folder)), file=out, flush=True)
    faulthandler.cancel_dump_traceback_later()


def drive(seeds, log):
    """Has all seeds worked on, in processes that may die, and logs them."""
    seeds = list(seeds)
    while seeds:
        batch = seeds[:SEEDS_IN_A_PROCESS]
        command = [sys.executable, __file__, "--seeds", *map(str, batch)]
        with (
            tempfile.TemporaryFile("w+", errors="replace") as words,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=words, text=True
            ) as process,
        ):
            for line in process.stdout:
                log.write(line)
                log.flush()
                seeds.remove(json.loads(line)["seed"])
            process.wait()
            words.seek(0)
            last = words.read()[-1500:]
        if process.returncode and set(batch) & set(seeds):
            dead = seeds.pop(0)
            facts = {"seed": dead, "outcome": "died"}
            facts["error"] = f"code {process.returncode}: {last}"
            log.write(json.dumps(facts) + "\n")
            log.flush()


def summarize(records):
    """Prints counts by outcome and each kind of error, the commonest first."""
    outcomes = collections.Counter(r["outcome"] for r in records)
    print(", ".join(f"{name} {n}" for name, n in outcomes.most_common()))
    kinds = collections.defaultdict(list)
    for record in records:
        if "error" in record:
            text = re.sub(r"[\d.]+", "#", record["error"])
            kinds[record["outcome"], text[:160]].append(record["seed"])
    for (outcome, text), seeds in sorted(
        kinds.items(), key=lambda item: -len(item[1])
    ):
        print(f"{len(seeds):4} {outcome:9}{text!r} seeds {seeds[:5]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--log", default="fuzz.jsonl")
    parser.add_argument("--seeds", type=int, nargs="*", help="work on these")
    options = parser.parse_args()
    if options.seeds is not None:
        return work(options.seeds)
    path = pathlib.Path(options.log)
    known = path.read_text().splitlines() if path.exists() else []
    done = {json.loads(line)["seed"] for line in known}
    wanted = range(options.first, options.first + options.number)
    with path.open("a") as log:
        drive([seed for seed in wanted if seed not in done], log)
    lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records = [record for record in records if record["seed"] in wanted]
    summarize(records)
    num_faults = sum(record["outcome"] in FAULTS for record in records)
    return min(num_faults, 255)


if __name__ == "__main__":
    sys.exit(main())
