"""What an exported language model is tried on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.language_model.settings import Settings
from kdtf.export.language_model.text_codec import TextCodec
from kdtf.export.language_model.verification import NUM_NEW

__all__ = ["token_prompts"]

_TEXT = (
    "The library opens at nine in the morning. Visitors who want to read old "
    "newspapers ask for them at the desk, and a clerk brings them from the "
    "cellar. In 1998 the town built a new reading room with 120 seats, and "
    "since then more people come in winter than in summer. "
)


def token_prompts(
    prompts: Sequence[str | Sequence[int]] | None,
    codec: TextCodec | None,
    settings: Settings,
    *,
    vocabulary_size: int,
    longest_call: int,
) -> list[list[int]]:
    """Returns prompts as token ids.

    Args:
        prompts: Texts or token ids; None for two that take more than one
            call, of English text or of random tokens.
        codec: The tokenizer for texts.
        settings: For the start token and the length.
        vocabulary_size: Of the model.
        longest_call: Tokens of its largest prefill.

    Raises:
        ValueError: A prompt is a text and there is no tokenizer, or it is
            empty, too long or has tokens that the model has not.
    """
    if prompts is None:
        # Of one length: Keras's generation is traced for each.
        length = max(1, min(longest_call + 2, settings.max_length - NUM_NEW))
        ids = _default(codec, settings, vocabulary_size, 2 * length)
        return [ids[:length], ids[length:]]
    found = [_ids(prompt, codec, settings) for prompt in prompts]
    for prompt, ids in zip(prompts, found, strict=True):
        fits = 0 < len(ids) < settings.max_length
        if not fits or not 0 <= min(ids) <= max(ids) < vocabulary_size:
            raise ValueError(
                "`verify_prompts` must have 1 to "
                f"{settings.max_length - 1} tokens below {vocabulary_size}. "
                f"Received: {prompt!r} with {len(ids)} tokens."
            )
    if not found:
        raise ValueError(
            "`verify_prompts` must hold a prompt. Received: an empty list. "
            "Leave it out for prompts of kdtf's own."
        )
    return found


def _ids(prompt: Any, codec: TextCodec | None, settings: Settings) -> list[int]:
    if not isinstance(prompt, str):
        return [int(i) for i in prompt]
    if codec is None:
        raise ValueError(
            "`verify_prompts` must be token ids where the model has no "
            f"tokenizer. Received: verify_prompts with {prompt!r}."
        )
    start = settings.start_token
    return ([] if start is None else [start]) + codec.encode(prompt)


def _default(
    codec: TextCodec | None, settings: Settings, size: int, length: int
) -> list[int]:
    if codec is not None:
        ids = _ids(_TEXT * (1 + length // 5), codec, settings)
        if len(ids) >= length:
            return ids[:length]
    return np.random.default_rng(0).integers(0, size, length).tolist()
