"""Runs an exported language model: text in, text out as it comes."""

import dataclasses
import os
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.language_model.calls import DECODE
from kdtf.export.language_model.calls import Call
from kdtf.export.language_model.calls import load_model
from kdtf.export.language_model.packaging import read_package
from kdtf.export.language_model.text_codec import TextCodec
from kdtf.export.quiet import quiet

__all__ = ["GenerationStats", "LanguageModelRunner"]

_PREFILL = "prefill_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationStats:
    """How long one text took.

    Args:
        prompt_tokens: Tokens of the prompt that were read.
        prompt_seconds: What reading them took.
        new_tokens: Tokens written.
        new_seconds: What writing them took.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0

    def __str__(self) -> str:
        """Returns both speeds, in one line."""
        return (
            f"prompt: {self.prompt_tokens} tokens, "
            f"{_rate(self.prompt_tokens, self.prompt_seconds)}; "
            f"written: {self.new_tokens} tokens, "
            f"{_rate(self.new_tokens, self.new_seconds)}"
        )


class LanguageModelRunner:
    """A `.tflite` file of `export_language_model`, ready to write text.

    Needs neither Keras nor TensorFlow.

    Args:
        path: The file.
        num_threads: CPU threads, at least 1. Defaults to 1.

    Attributes:
        settings: What the file says of itself: its length, its tokens.
        stats: How long the last text took.

    Raises:
        ValueError: The file is no language model, or the runtime refuses it.

    Example:
        >>> runner = LanguageModelRunner("chat.tflite")  # doctest: +SKIP
        >>> "".join(runner.generate("Hello", chat=True))  # doctest: +SKIP
        'Hello! How can I help you today?'
    """

    def __init__(
        self, path: str | os.PathLike[str], *, num_threads: int = 1
    ) -> None:
        """Loads the file."""
        self.path = os.fspath(path)
        self.settings, self.codec = read_package(path)
        self.stats = GenerationStats()
        with quiet():
            self._prepare(num_threads)
        self._position = 0
        self.reset()

    def _prepare(self, num_threads: int) -> None:
        self._model = load_model(self.path, num_threads)
        lengths = [
            int(key.removeprefix(_PREFILL))
            for key in self._model.get_signature_list()
            if key.startswith(_PREFILL)
        ]
        self._chunks = sorted(lengths, reverse=True)
        self._calls = {1: Call(self._model, DECODE)}
        for length in lengths:
            self._calls[length] = Call(self._model, f"{_PREFILL}{length}")
        # Those of `decode` serve all signatures.
        decode = self._calls[1]
        self._caches = {n: decode.inputs[n] for n in decode.cache_names}
        self._spares = {n: decode.outputs[n] for n in decode.cache_names}

    def reset(self) -> None:
        """Forgets all tokens."""
        self._position = 0
        for name, buffer in self._caches.items():
            buffer.write(np.zeros(self._calls[1].shapes[name], "float32"))

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Returns the tokens the model is asked with, its start token first.

        Args:
            text: A prompt.
            chat: Whether it is a turn of a conversation. Defaults to text
                that the model continues.

        Raises:
            ValueError: The file has no tokenizer, or does not know how
                conversations are written.
        """
        codec = self._known_codec()
        if chat and self.settings.chat is None:
            raise ValueError(
                "`chat=True` needs a model that knows turns of a conversation "
                "(its vocabulary has no token for them). Received: "
                f"path={self.path!r}. Leave `chat` out."
            )
        if chat and self.settings.chat:
            text = self.settings.chat.prompt(text)
        start = self.settings.start_token
        return ([] if start is None else [start]) + codec.encode(text)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        chat: bool = False,
        **options: Any,
    ) -> Iterator[str]:
        """Yields what follows `prompt`, piece by piece.

        Args:
            prompt: Text, or token ids as they are.
            chat: Whether text is a turn of a conversation.
            **options: See `generate_ids`.

        Raises:
            ValueError: See `encode` and `generate_ids`.
        """
        if isinstance(prompt, str):
            ids = self.encode(prompt, chat=chat)
        else:
            ids = [int(token) for token in prompt]
        codec = self._known_codec()
        return self._pieces(codec, ids, self.generate_ids(ids, **options))

    def generate_ids(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[int] | None = None,
    ) -> Iterator[int]:
        """Yields the tokens that follow `ids`, without the one that ends.

        Args:
            ids: Token ids, at least one.
            max_tokens: At most so many. Defaults to what the cache holds.
            temperature: 0 takes the likeliest token; 1 draws as the model
                says; in between the likely ones get likelier. Defaults to 0.
            seed: Of the draws. Defaults to 0.
            stop: Tokens that end the text. Defaults to the model's own; pass
                an empty list for none.

        Raises:
            ValueError: There are no tokens, they do not fit into the cache,
                or an option is out of range.
        """
        room = self.settings.max_length - len(ids)
        if not len(ids) or room < 1:
            raise ValueError(
                "The prompt must have at least 1 token and at most "
                f"{self.settings.max_length - 1}, one less than the cache "
                f"holds. Received: {len(ids)} tokens. Shorten it, or export "
                "with a larger `max_length`."
            )
        if temperature < 0 or (max_tokens is not None and max_tokens < 1):
            raise ValueError(
                "`temperature` must be at least 0 and `max_tokens` at least "
                f"1. Received: temperature={temperature}, "
                f"max_tokens={max_tokens}."
            )
        ends = set(self.settings.stop_tokens if stop is None else stop)
        count = room if max_tokens is None else min(room, max_tokens)
        draw = _Sampler(temperature, seed)
        return self._run(list(ids), count, ends, draw)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the scores of all tokens to come after `ids`.

        The tokens are appended to those the cache holds.

        Args:
            ids: Token ids, at least one.

        Returns:
            float32 of shape `(vocabulary,)`.

        Raises:
            ValueError: There is no room for them.
        """
        if not len(ids) or len(ids) + self._position > self.settings.max_length:
            raise ValueError(
                f"The cache holds {self.settings.max_length} tokens, "
                f"{self._position} of them taken. Received: {len(ids)} more."
            )
        self._read(list(ids[:-1]))
        return self._step(int(ids[-1]))

    def _known_codec(self) -> TextCodec:
        if self.codec is None:
            raise ValueError(
                "Text needs a tokenizer, and the file has none. Received: "
                f"path={self.path!r}. Pass token ids to `generate_ids`, or "
                "export with `tokenizer=`."
            )
        return self.codec

    def _run(
        self, ids: list[int], count: int, ends: set[int], draw: "_Sampler"
    ) -> Iterator[int]:
        self.reset()
        start = time.perf_counter()
        self._read(ids[:-1])
        prompt_seconds = time.perf_counter() - start
        token, spent = ids[-1], 0.0
        for number in range(1, count + 1):
            start = time.perf_counter()
            token = draw(self._step(token))
            # The caller's own time between two tokens does not count.
            spent += time.perf_counter() - start
            self.stats = GenerationStats(
                prompt_tokens=len(ids) - 1,
                prompt_seconds=prompt_seconds,
                new_tokens=number,
                new_seconds=spent,
            )
            if token in ends:
                return
            yield token

    @staticmethod
    def _pieces(
        codec: TextCodec, ids: list[int], tokens: Iterator[int]
    ) -> Iterator[str]:
        """Gives text whose characters are complete."""
        written = codec.decode(ids)
        for token in tokens:
            ids.append(token)
            text = codec.decode(ids)
            # A character of several tokens is unreadable until the last.
            if not text.endswith("\ufffd") and len(text) > len(written):
                yield text[len(written) :]
                written = text
        rest = codec.decode(ids)[len(written) :]
        if rest:
            yield rest

    def _read(self, ids: list[int]) -> None:
        """Fills the cache, with the largest chunks that fit first."""
        while ids:
            fitting = (size for size in self._chunks if size <= len(ids))
            size = next(fitting, 1)
            self._call(ids[:size])
            ids = ids[size:]

    def _step(self, token: int) -> np.ndarray:
        self._call([token])
        decode = self._calls[1]
        size = int(np.prod(decode.shapes["logits"]))
        return decode.outputs["logits"].read(size, np.float32)

    def _call(self, ids: list[int]) -> None:
        size = len(ids)
        call = self._calls[size]
        places = np.arange(self._position, self._position + size)
        call.inputs["tokens"].write(np.asarray([ids], "int32"))
        call.inputs["input_pos"].write(places.astype("int32"))
        # What one call filled the next one reads; nothing is copied.
        call.run(self._caches, self._spares)
        self._caches, self._spares = self._spares, self._caches
        self._position += size


class _Sampler:
    """Chooses the next token by its scores."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._rng = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> int:
        if not self._temperature:
            return int(logits.argmax())
        scaled = logits.astype("float64") / self._temperature
        weights = np.exp(scaled - scaled.max())
        return int(self._rng.choice(len(weights), p=weights / weights.sum()))


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f} tokens/s" if seconds else "no time"
