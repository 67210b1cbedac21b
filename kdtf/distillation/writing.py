"""A causal language model goes on with prompts.

The model's own `generate_step` is run, in a function compiled here: neither
its sampler, nor its optimizer, nor its compiled `generate` is changed.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["Answers", "SamplerSettings", "Writer"]

Windows = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How the next token is drawn; see `generate_dataset`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        if not self.temperature >= 0.0:
            raise ValueError(
                "`temperature` must not be negative. Received: temperature="
                f"{self.temperature}. 0 always takes the likeliest token."
            )
        if self.top_k < 0 or not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                "`top_k` must not be negative and `top_p` must be in (0, 1]. "
                f"Received: top_k={self.top_k}, top_p={self.top_p}. "
                "`top_k=0` and `top_p=1` leave no token out."
            )

    def sampler(self) -> Any:
        """Gives the `keras_nlp` sampler that is meant."""
        from keras_nlp import samplers

        common = {"temperature": self.temperature, "seed": 0}
        if self.temperature == 0.0:
            return samplers.GreedySampler()
        if self.top_p < 1.0:
            return samplers.TopPSampler(
                p=self.top_p, k=self.top_k or None, **common
            )
        if self.top_k:
            return samplers.TopKSampler(k=self.top_k, **common)
        return samplers.RandomSampler(**common)


@dataclasses.dataclass(frozen=True)
class Answers:
    """Sequences that a model wrote.

    Attributes:
        tokens: Prompt, answer and what came after its end, of shape
            `(rows, max_length)`.
        prompt_lengths: Tokens of each prompt, of shape `(rows,)`.
    """

    tokens: np.ndarray
    prompt_lengths: np.ndarray


class Writer:
    """Lets a causal language model go on with prompts, with its weights now.

    Args:
        model: A `keras_nlp` causal language model.
        max_length: Tokens of prompt and answer together.
        end_id: As in `generate_dataset`.
        settings: How tokens are drawn.
        argument: What the caller calls the model, for messages.

    Raises:
        TypeError: `model` is no causal language model.
        ValueError: `max_length` or `end_id` does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_length: int,
        end_id: Any,
        settings: SamplerSettings,
        argument: str,
    ) -> None:
        if not hasattr(model, "generate_step"):
            raise TypeError(
                f"`{argument}` must be able to generate: a `keras_nlp` causal "
                f"language model. Received: type={type(model).__name__}. "
                "Use, for example, `keras_nlp.models.GPT2CausalLM`, which has "
                "a backbone in it."
            )
        limit = getattr(model.backbone, "max_sequence_length", None)
        if max_length < 2 or (limit is not None and max_length > limit):
            raise ValueError(
                "`max_length` counts the tokens of prompt and answer: at "
                "least 2, and no more than the model has positions for. "
                f"Received: max_length={max_length}, {argument} with "
                f"{limit or 'any number of'} positions."
            )
        self.model = model
        self.max_length = max_length
        self.end_ids = _end_ids(model, end_id, argument)
        self.sampler = settings.sampler()
        # Behind a prompt lies room for the answer. The model stops at an end
        # token it finds there, so what fills that room must not be one.
        self.filler = next(
            i for i in itertools.count() if i not in self.end_ids
        )
        # As `generate` does. A function of its own, so that it outlives
        # `model.compile`, and so that the user's stays compiled.
        self._function = tf.function(
            self._step, jit_compile=bool(model.jit_compile), autograph=False
        )

    def _step(self, inputs: dict[str, Any]) -> Any:
        # Python runs when the function is traced: only then is it replaced.
        with _sampler_of(self.model, self.sampler):
            outputs = self.model.generate_step(
                inputs, stop_token_ids=self.end_ids or None
            )
        return outputs["token_ids"]

    def prompt_ids(self, prompts: Sequence[Any]) -> list[np.ndarray]:
        """Gives the prompts as token ids, each with room for an answer.

        Raises:
            ValueError: There is none, one is empty or too long, or there are
                texts and no preprocessor.
        """
        prompts = list(prompts)
        if prompts and isinstance(prompts[0], str):
            prompts = self._tokenize(prompts)
        ids = [np.asarray(prompt) for prompt in prompts]
        for index, prompt in enumerate(ids):
            if prompt.ndim != 1 or not 0 < len(prompt) < self.max_length:
                raise ValueError(
                    "A prompt must be one list of token ids, at least one and "
                    "fewer than `max_length`. Received: prompt "
                    f"{index} of shape {prompt.shape}, max_length="
                    f"{self.max_length}. Cut it at its left."
                )
        if not ids:
            raise ValueError(
                "`prompts` must hold at least one prompt. Received: none."
            )
        return ids

    def _tokenize(self, texts: list[str]) -> list[np.ndarray]:
        if self.model.preprocessor is None:
            raise ValueError(
                "`prompts` may be texts only where the model has a "
                f"preprocessor. Received: {texts[0][:40]!r}, preprocessor="
                "None. Pass token ids."
            )
        # The model's own way, with a start token where it wants one.
        inputs = self.model.preprocessor.generate_preprocess(
            texts, sequence_length=self.max_length
        )
        tokens = keras.ops.convert_to_numpy(inputs["token_ids"])
        mask = keras.ops.convert_to_numpy(inputs["padding_mask"])
        lengths = mask.astype(bool).sum(axis=1)
        return [
            row[:length] for row, length in zip(tokens, lengths, strict=True)
        ]

    def write(
        self,
        prompts: Sequence[np.ndarray],
        *,
        seed: Sequence[int],
        num_rows: int = 0,
    ) -> Answers:
        """Gives the prompts with the model's answers.

        Args:
            prompts: Token ids, see `prompt_ids`.
            seed: Numbers that the sampling depends on, and nothing else.
            num_rows: Smaller batches are filled up to so many rows, so that
                the function need not be compiled for another shape.
        """
        rows = [*prompts, *[prompts[-1]] * (num_rows - len(prompts))]
        tokens = np.full((len(rows), self.max_length), self.filler, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for index, prompt in enumerate(rows):
            tokens[index, : len(prompt)] = prompt
            mask[index, : len(prompt)] = True
        state = np.random.SeedSequence(list(seed)).generate_state(2)
        for variable in self.sampler.variables:
            variable.assign(state.astype(np.int64))
        outputs = self._function(
            {
                "token_ids": tf.constant(tokens),
                "padding_mask": tf.constant(mask),
            }
        )
        return Answers(
            outputs.numpy()[: len(prompts)].astype(np.int32),
            mask.sum(axis=1)[: len(prompts)].astype(np.int32),
        )

    def to_windows(self, answers: Answers) -> Windows:
        """Gives inputs, next-token labels, and weights 1 at the answers.

        The last token is an input without a label: it keeps windows as wide
        as the model has positions for.
        """
        tokens = answers.tokens
        places = np.arange(self.max_length)
        is_answer = places >= answers.prompt_lengths[:, None]
        is_end = is_answer & np.isin(tokens, self.end_ids)
        # A row is done at its first end token; later ones are leftovers.
        is_real: np.ndarray = np.cumsum(is_end, axis=1) - is_end == 0
        tokens = np.where(is_real, tokens, self.filler).astype(np.int32)
        x = {"token_ids": tokens, "padding_mask": is_real.astype(np.int32)}
        weight = _one_later(is_real & is_answer, False).astype(np.float32)
        return x, _one_later(tokens, self.filler), weight


@contextlib.contextmanager
def _sampler_of(model: Any, sampler: Any) -> Iterator[None]:
    """Lends a model a sampler."""
    missing = object()
    before = getattr(model, "sampler", missing)
    model.sampler = sampler
    try:
        yield
    finally:
        if before is missing:
            del model.sampler
        else:
            model.sampler = before


def _end_ids(model: Any, end_id: Any, argument: str) -> tuple[int, ...]:
    if end_id is None:
        return ()
    if not isinstance(end_id, str):
        return tuple(int(i) for i in np.atleast_1d(end_id))
    tokenizer = getattr(model.preprocessor, "tokenizer", None)
    if end_id != "auto" or tokenizer is None:
        raise ValueError(
            "`end_id` must be a token id, several, None, or 'auto' where the "
            f"model has a preprocessor. Received: end_id={end_id!r}, "
            f"{argument}.preprocessor={model.preprocessor}. None writes until "
            "`max_length`."
        )
    ids = [tokenizer.end_token_id]
    # Llama 3 ends a turn and a text with different tokens.
    ids += [getattr(tokenizer, "end_token2_id", None)]
    return tuple(int(i) for i in ids if i is not None)


def _one_later(rows: np.ndarray, last: Any) -> np.ndarray:
    return np.concatenate(
        [rows[:, 1:], np.full_like(rows[:, :1], last)], axis=1
    )
