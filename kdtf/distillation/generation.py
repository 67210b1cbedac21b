"""Sequence-level distillation: the teacher writes what the student reads."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf import files
from kdtf.distillation.cache import fingerprints
from kdtf.distillation.writing import Answers
from kdtf.distillation.writing import SamplerSettings
from kdtf.distillation.writing import Windows
from kdtf.distillation.writing import Writer

__all__ = ["generate_dataset"]

# What NumPy raises for a zip file with a wrong byte, or cut short.
_UNREADABLE = (
    EOFError,
    KeyError,
    OSError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def generate_dataset(
    teacher: Any,
    prompts: Sequence[Any],
    *,
    max_length: int,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    end_id: Any = "auto",
    batch_size: int = 8,
    path: str | os.PathLike[str] | None = None,
    verbose: int = 1,
) -> Windows:
    """Lets a teacher answer prompts, and gives the answers to learn from.

    Sequence-level distillation: a student that is fitted on them learns from
    what the teacher says instead of what it thinks of others' words; with a
    `Distiller` it learns from both.

    With a `path` each batch is kept in a file of its own. A run that was
    killed goes on after the last whole batch and ends with the same answers,
    because each batch has its own seed.

    Args:
        teacher: A `keras_nlp` causal language model. With
            `teacher.jit_compile = True` it writes about twice as fast, after
            a longer start.
        prompts: A list of token ids each, or texts, which the teacher's
            preprocessor makes token ids of.
        max_length: Tokens of prompt and answer together.
        seed: Of the sampling. Defaults to 0.
        temperature: 1 samples from the teacher's own distribution, 0 always
            takes the likeliest token. Defaults to 1.0.
        top_k: Samples from so many of the likeliest tokens; 0 is all of
            them. Defaults to 0.
        top_p: Samples from the likeliest tokens that together have this
            probability. Defaults to 1.0: all of them.
        end_id: The token, or tokens, that end an answer. "auto", the default,
            asks the preprocessor's tokenizer; with None each answer goes on
            to `max_length`.
        batch_size: Answers that are written together. Defaults to 8.
        path: A folder to keep the answers in. Defaults to None.
        verbose: 0 is silent. Defaults to 1, a progress bar.

    Returns:
        `(x, y, sample_weight)`: `x` is a dict of "token_ids" and
        "padding_mask"; `y` are the labels, one token later; the weights are 1
        at the answer's tokens and the one that ends it, and 0 at prompt and
        padding. All of shape `(len(prompts), max_length)`.

    Raises:
        TypeError: `teacher` is no causal language model.
        ValueError: A setting is out of range, a prompt is empty or leaves no
            room for an answer, or the folder holds other answers or a
            damaged file.

    Example:
        >>> import keras_nlp
        >>> backbone = keras_nlp.models.GPT2Backbone(
        ...     vocabulary_size=10, num_layers=1, num_heads=1, hidden_dim=4,
        ...     intermediate_dim=4, max_sequence_length=6,
        ... )
        >>> teacher = keras_nlp.models.GPT2CausalLM(backbone)
        >>> x, y, weight = generate_dataset(
        ...     teacher, [[3, 4]], max_length=6, end_id=None, verbose=0
        ... )
        >>> x["token_ids"][0, :2].tolist(), weight[0].tolist()
        ([3, 4], [0.0, 1.0, 1.0, 1.0, 1.0, 0.0])

    Reference:
        Kim and Rush 2016, https://arxiv.org/abs/1606.07947
    """
    if batch_size < 1:
        raise ValueError(
            "`batch_size` must be at least 1. Received: batch_size="
            f"{batch_size}."
        )
    settings = SamplerSettings(
        temperature=temperature, top_k=top_k, top_p=top_p
    )
    writer = Writer(
        teacher,
        max_length=max_length,
        end_id=end_id,
        settings=settings,
        argument="teacher",
    )
    ids = writer.prompt_ids(prompts)
    batches = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    run = {
        "max_length": max_length,
        "seed": seed,
        "end_ids": writer.end_ids,
        "batch_size": batch_size,
        **dataclasses.asdict(settings),
    }
    folder = None if path is None else _Folder(path, run, ids, teacher)
    bar = keras.utils.Progbar(len(batches), verbose=verbose, unit_name="batch")
    parts = []
    for index, batch in enumerate(batches):
        part = folder.read(index) if folder else None
        if part is None:
            part = writer.write(batch, seed=(seed, index), num_rows=batch_size)
            if folder:
                folder.keep(index, part)
        parts.append(part)
        bar.update(index + 1)
    return writer.to_windows(_concatenate(parts))


def _concatenate(parts: list[Answers]) -> Answers:
    return Answers(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.prompt_lengths for part in parts]),
    )


class _Folder:
    """Keeps answers, one file a batch, and knows whose they are."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        run: dict[str, Any],
        prompts: list[np.ndarray],
        teacher: Any,
    ) -> None:
        self.path = pathlib.Path(path)
        run = {
            **run,
            "end_ids": list(run["end_ids"]),
            "num_prompts": len(prompts),
            "prompts": fingerprints.of_arrays(prompts),
            "teacher": fingerprints.of_model(teacher),
        }
        self.fingerprint = hashlib.sha256(
            json.dumps(run, sort_keys=True).encode()
        ).hexdigest()
        head = self.path / "run.json"
        if not head.exists():
            with files.atomic_path(head) as temporary:
                temporary.write_text(json.dumps(run, indent=2) + "\n")
        kept = json.loads(head.read_text())
        changed = [key for key in run if kept.get(key) != run[key]]
        if changed:
            raise ValueError(
                "`path` must be a new folder, or one of the same run. "
                f"Received: path={str(self.path)!r}, whose answers differ in "
                f"{changed}. Choose another folder, or delete this one."
            )

    def _part(self, index: int) -> pathlib.Path:
        return self.path / f"part-{index:06d}.npz"

    def _checksum(self, index: int, answers: Answers) -> str:
        text = fingerprints.of_arrays([answers.tokens, answers.prompt_lengths])
        whole = f"{self.fingerprint} {index} {text}"
        return hashlib.sha256(whole.encode()).hexdigest()

    def keep(self, index: int, answers: Answers) -> None:
        """Writes a batch, whole or not at all."""
        with files.atomic_path(self._part(index)) as temporary:
            np.savez_compressed(
                temporary,
                tokens=answers.tokens,
                prompt_lengths=answers.prompt_lengths,
                checksum=np.array(self._checksum(index, answers)),
            )

    def read(self, index: int) -> Answers | None:
        """Reads a batch, or gives None if there is none yet."""
        part = self._part(index)
        if not part.exists():
            return None
        try:
            # From memory: NumPy leaves a file open that is no archive.
            data = io.BytesIO(part.read_bytes())
            with np.load(data, allow_pickle=False) as arrays:
                answers = Answers(arrays["tokens"], arrays["prompt_lengths"])
                checksum = str(arrays["checksum"])
        except _UNREADABLE as error:
            raise self._damaged(part) from error
        if checksum != self._checksum(index, answers):
            raise self._damaged(part)
        return answers

    def _damaged(self, part: pathlib.Path) -> ValueError:
        return ValueError(
            "A part of the answers must be as it was written. Received: "
            f"{str(part)!r}, which is damaged. Delete this file and call "
            "again: the same answers are written anew."
        )
