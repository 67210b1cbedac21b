"""The front door: a keras-nlp model in, a verified language model out."""

import os
import pathlib
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.export.interface import check_built
from kdtf.export.interface import check_size
from kdtf.export.language_model.building import Built
from kdtf.export.language_model.building import build_language_model
from kdtf.export.language_model.packaging import require_builder
from kdtf.export.language_model.packaging import with_files
from kdtf.export.language_model.packaging import write_bundle
from kdtf.export.language_model.prompts import token_prompts
from kdtf.export.language_model.result import LanguageModelResult
from kdtf.export.language_model.settings import Settings
from kdtf.export.language_model.text_codec import TextCodec
from kdtf.export.language_model.tokenizer_files import codec_of
from kdtf.export.language_model.tokenizer_files import settings_of
from kdtf.export.language_model.tracing import cache_shape
from kdtf.export.language_model.verification import check_limits
from kdtf.export.language_model.verification import compare_file
from kdtf.export.language_model.verification import run_engine
from kdtf.export.mixed import coarsest_mode
from kdtf.export.targets import MODES
from kdtf.files import atomic_path

__all__ = ["PREFILL_LENGTHS", "QUANTIZE", "export_language_model"]

QUANTIZE = tuple(
    mode for mode in MODES if mode is None or MODES[mode].num_bits is not None
)
PREFILL_LENGTHS = (16, 128)


def export_language_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | Mapping[Any, str | None] | None = "int4",
    max_length: int = 512,
    prefill_lengths: Sequence[int] | None = None,
    tokenizer: str | os.PathLike[str] | None = "auto",
    verify_prompts: Sequence[str | Sequence[int]] | None = None,
) -> LanguageModelResult:
    """Writes a language model that generates with a cache, on a phone.

    The file has the signatures `prefill_<S>`, which reads S tokens of a
    prompt in one call, and `decode`, which reads one and scores the next, over
    a cache of fixed length, with LiteRT-LM's names. The tokenizer, the start
    and stop tokens and how the model's family writes conversations travel
    along. Before the file takes its name it is run in a fresh process on
    prompts that Keras's own `generate` continued: its scores are compared,
    and a float file must write the same tokens.

    Args:
        model: A `CausalLM` of keras-nlp: GPT-2, Llama (SmolLM2), Llama 3,
            Mistral, Qwen 3, Gemma. A model that kdtf quantized is stored on
            its own grid.
        path: Where to write. ".tflite": for LiteRT and `kdtf generate`;
            ".litertlm": for LiteRT-LM, whose engine must write the same
            (needs `pip install "kdtf[deploy]"`).
        quantize: "int4" (one scale for each output), "int4_block32",
            "int4_block64", "int4_block128", "int4_block256" (one for so many
            weights: closer), "dynamic_int8" (closest), or None for float32;
            or path patterns to these, as for `export_tflite`: `{"*embeddings":
            "dynamic_int8", "*": "int4_block32"}`. Pretrained models mostly
            need more than rounding for 4 bits: `kdtf.quantize` them so with
            method="gptq", and export with "dynamic_int8", the widest of it.
            Defaults to "int4".
        max_length: Tokens of prompt and answer together. Defaults to 512.
        prefill_lengths: How many tokens of a prompt one call may take; the
            rest is read one by one. Each costs memory: the runtime packs the
            weights for each. Defaults to 16 and 128, where they fit.
        tokenizer: "auto" for that of the model's preprocessor, if it has
            one; the path of a Hugging Face tokenizer.json or a SentencePiece
            model; or None. Defaults to "auto".
        verify_prompts: Texts, or lists of token ids, to compare on. Defaults
            to two, longer than the largest prefill.

    Returns:
        Size, speed and how far the file is from the Keras model.

    Raises:
        ValueError: An argument is unknown or does not fit the model.
        TypeError: `model` is no language model with a cache.
        ExportError: The model is too large or does not convert, its tokenizer
            gives other tokens, or the file failed a check; no file is left
            and an older one is untouched.

    Example:
        >>> import keras_nlp, numpy, os, tempfile
        >>> backbone = keras_nlp.models.GPT2Backbone(
        ...     16, 1, 1, 8, 16, max_sequence_length=8
        ... )
        >>> model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
        >>> path = os.path.join(tempfile.mkdtemp(), "tiny.tflite")
        >>> result = export_language_model(
        ...     model, path, quantize=None, max_length=8, prefill_lengths=(4,)
        ... )
        >>> result.token_agreement, result.prefill_lengths
        (1.0, (4,))
    """
    is_bundle = _is_bundle(path)
    lengths = _lengths(prefill_lengths, max_length)
    _check_arguments(model, quantize, max_length)
    caches = cache_shape(model, max_length)
    check_size(model)
    codec = codec_of(model, tokenizer)
    _check_tokenizer(codec, model, is_bundle=is_bundle)
    settings = settings_of(model, codec, max_length=max_length)
    prompts = token_prompts(
        verify_prompts,
        codec,
        settings,
        vocabulary_size=model.backbone.vocabulary_size,
        longest_call=max(lengths, default=1),
    )
    built = build_language_model(
        model, caches, lengths, quantize=quantize, prompts=prompts
    )
    return _verified(path, built, settings, codec, lengths)


def _verified(
    path: str | os.PathLike[str],
    built: Built,
    settings: Settings,
    codec: TextCodec | None,
    prefill_lengths: tuple[int, ...],
) -> LanguageModelResult:
    """Runs the file; one that passes takes its name."""
    content = with_files(built.content, settings, codec)
    with tempfile.TemporaryDirectory(prefix="kdtf-lm-") as folder:
        tried = pathlib.Path(folder, "tried.tflite")
        tried.write_bytes(content)
        comparison = compare_file(tried, built.written, mode=built.plan.mode)
        warnings = check_limits(comparison, built.plan.limits)
        with atomic_path(path) as temporary:
            engine = None
            if codec is not None and _is_bundle(path):
                write_bundle(temporary, built.content, settings, codec)
                engine = run_engine(temporary, built.written, codec, tried)
            else:
                temporary.write_bytes(content)
            size_bytes = temporary.stat().st_size
    return LanguageModelResult(
        path=pathlib.Path(path),
        size_bytes=size_bytes,
        num_parameters=built.description.num_parameters,
        quantize=built.plan.mode,
        max_length=settings.max_length,
        prefill_lengths=prefill_lengths,
        tokenizer=settings.tokenizer,
        has_chat=settings.chat is not None,
        operators=built.description.operators,
        sqnr_db=comparison.sqnr_db,
        token_agreement=comparison.token_agreement,
        num_tokens=comparison.num_tokens,
        decode_tokens_per_second=comparison.tokens_per_second,
        peak_memory_bytes=comparison.peak_memory_bytes,
        litert_lm=engine,
        warnings=built.notes + warnings,
    )


def _is_bundle(path: str | os.PathLike[str]) -> bool:
    suffix = pathlib.Path(path).suffix
    if suffix not in (".tflite", ".litertlm"):
        raise ValueError(
            "`path` must end in '.tflite' or '.litertlm'. Received: "
            f"path={os.fspath(path)!r}."
        )
    if suffix == ".litertlm":
        require_builder()
    return suffix == ".litertlm"


def _lengths(
    prefill_lengths: Sequence[int] | None, max_length: int
) -> tuple[int, ...]:
    if prefill_lengths is None:
        return tuple(n for n in PREFILL_LENGTHS if n < max_length)
    lengths = tuple(sorted(set(prefill_lengths)))
    if lengths and not 1 < lengths[0] <= lengths[-1] <= max_length:
        raise ValueError(
            f"`prefill_lengths` must be from 2 to `max_length`={max_length} "
            f"(`decode` takes 1). Received: prefill_lengths={lengths}."
        )
    return lengths


def _check_arguments(model: Any, quantize: Any, max_length: int) -> None:
    if coarsest_mode(quantize) not in QUANTIZE:
        raise ValueError(
            f"`quantize` must be one of {list(QUANTIZE)}. Received: "
            f"quantize={quantize!r}."
        )
    check_built(model)
    longest = getattr(
        getattr(model, "backbone", None), "max_sequence_length", None
    )
    if max_length < 2 or (longest is not None and max_length > longest):
        limit = f" and at most {longest}, its positions" if longest else ""
        raise ValueError(
            f"`max_length` must be at least 2{limit}. Received: "
            f"max_length={max_length}."
        )


def _check_tokenizer(
    codec: TextCodec | None, model: Any, *, is_bundle: bool
) -> None:
    if codec is None and is_bundle:
        raise ValueError(
            "A '.litertlm' bundle must have a tokenizer: LiteRT-LM takes text. "
            "Received: none, in a model without a preprocessor. Pass "
            "`tokenizer=` the path of its tokenizer.json or SentencePiece "
            "model, or export to a '.tflite'."
        )
    size = model.backbone.vocabulary_size
    if codec is not None and codec.num_tokens > size:
        raise ValueError(
            f"`tokenizer` must fit the model's {size} tokens. Received: one "
            f"of {codec.num_tokens} tokens."
        )
