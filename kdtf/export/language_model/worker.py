"""Runs an exported language model in a process of its own.

A runtime that meets a file it does not like may abort, and LiteRT-LM's engine
brings a second copy of it: neither belongs into the user's process.
"""

import os
import pathlib
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.language_model.runner import LanguageModelRunner
from kdtf.export.worker import ask
from kdtf.export.worker import read
from kdtf.export.worker import write

__all__ = ["continuations", "engine_texts", "forced_logits"]

TIME_LIMIT_SECONDS = 1200.0


def forced_logits(
    path: pathlib.Path, sequences: Sequence[tuple[list[int], list[int]]]
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Returns the scores before each token that Keras wrote.

    With the same tokens before it the likeliest one is what the file itself
    would write.

    Args:
        path: A `.tflite` file with its settings.
        sequences: Prompts, and what Keras wrote after them.

    Returns:
        For each prompt logits of shape `(written, vocabulary)`; and
        "tokens_per_second" and "peak_memory_bytes" of the process.

    Raises:
        ExportError: The runtime refused the file, crashed or took too long.
    """
    arrays, facts = _answer("logits", model=str(path), sequences=sequences)
    return list(arrays.values()), facts


def continuations(
    path: pathlib.Path, prompts: Sequence[str], *, max_tokens: int
) -> list[dict[str, Any]]:
    """Returns what the file itself writes after texts, the likeliest tokens.

    Args:
        path: A `.tflite` file with its settings.
        prompts: The texts.
        max_tokens: How many to write, if none of them ends it.

    Returns:
        For each text "ids" (its tokens, without the start token) and
        "tokens" (those that were written).

    Raises:
        ExportError: The runtime refused the file, crashed or took too long.
    """
    facts = _answer(
        "continue",
        model=str(path),
        prompts=list(prompts),
        max_tokens=max_tokens,
    )[1]
    answers: list[dict[str, Any]] = facts["answers"]
    return answers


def engine_texts(
    path: pathlib.Path, prompts: Sequence[str], tokens: Sequence[list[int]]
) -> list[dict[str, Any]]:
    """Returns what LiteRT-LM makes of prompts.

    Args:
        path: A `.litertlm` bundle.
        prompts: Texts to continue.
        tokens: What is expected after each.

    Returns:
        For each prompt "ids" (its tokens, without the start token), "text"
        (what the engine wrote) and "expected" (the text of `tokens`).

    Raises:
        ExportError: The engine refused the bundle, crashed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="kdtf-run-") as folder:
        facts = _answer(
            "engine",
            runtime="LiteRT-LM",
            model=str(path),
            prompts=list(prompts),
            tokens=list(tokens),
            folder=folder,
        )[1]
    found: list[dict[str, Any]] = facts["answers"]
    return found


def _answer(kind: str, runtime: str = "LiteRT", **facts: Any) -> Any:
    return ask(
        __name__,
        {},
        runtime=runtime,
        way_out="Another `quantize` may avoid the operator that it refuses.",
        time_limit_seconds=TIME_LIMIT_SECONDS,
        kind=kind,
        **facts,
    )


def main(asked: str, answer: str) -> None:
    """Answers one request; both are `.npz` files."""
    kinds = {"logits": _logits, "continue": _continue, "engine": _engine}
    request = read(asked)[1]
    arrays, facts = kinds[request["kind"]](request)
    write(answer, arrays, **facts)


def _logits(request: dict[str, Any]) -> tuple[dict[str, np.ndarray], Any]:
    runner = LanguageModelRunner(request["model"])
    arrays, seconds, count = {}, 0.0, 0
    for number, (prompt, written) in enumerate(request["sequences"]):
        runner.reset()
        rows = [runner.logits(prompt)]
        start = time.perf_counter()
        rows += [runner.logits([token]) for token in written[:-1]]
        seconds += time.perf_counter() - start
        count += len(written) - 1
        arrays[str(number)] = np.stack(rows)
    speed = count / seconds if seconds else 0.0
    return arrays, {"tokens_per_second": speed, "peak_memory_bytes": _peak()}


def _peak() -> int:
    """Gives this process's own peak, which `getrusage` does not know.

    A child starts with its parent's there.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _continue(request: dict[str, Any]) -> tuple[dict[str, np.ndarray], Any]:
    runner = LanguageModelRunner(request["model"])
    count = request["max_tokens"]
    answers = []
    for prompt in request["prompts"]:
        tokens = runner.generate_ids(runner.encode(prompt), max_tokens=count)
        ids = runner.codec.encode(prompt) if runner.codec else []
        answers.append({"ids": ids, "tokens": list(tokens)})
    return {}, {"answers": answers}


def _engine(request: dict[str, Any]) -> tuple[dict[str, np.ndarray], Any]:
    import litert_lm

    engine = litert_lm.Engine(
        request["model"],
        backend=litert_lm.Backend.CPU(),
        cache_dir=request["folder"],
    )
    greedy = litert_lm.SamplerConfig(
        top_k=1, top_p=1.0, temperature=1.0, seed=0
    )
    answers = []
    pairs = zip(request["prompts"], request["tokens"], strict=True)
    for prompt, tokens in pairs:
        session = engine.create_session(
            apply_prompt_template=False,
            sampler_config=greedy,
            max_output_tokens=len(tokens),
        )
        session.run_prefill([prompt])
        answers.append(
            {
                "ids": engine.tokenize(prompt),
                "text": session.run_decode().texts[0],
                "expected": engine.detokenize(tokens),
            }
        )
        session.close()
    return {}, {"answers": answers}


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception:
        # At an ordinary end LiteRT has the last words, not the error.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
