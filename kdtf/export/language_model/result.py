"""What exporting a language model gave, in numbers and in words."""

import dataclasses
import pathlib

from kdtf.console import format_bytes

__all__ = ["LanguageModelResult"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelResult:
    """An exported language model that passed all checks.

    Args:
        path: The file.
        size_bytes: Its size.
        num_parameters: Its weights; a shared table counts once.
        quantize: None, or how the weights are stored, such as "int4".
        max_length: Tokens its cache holds.
        prefill_lengths: Tokens of a prompt that one call may take.
        tokenizer: The tokenizer's file in it, None without one.
        has_chat: Whether it knows turns of a conversation.
        operators: Name to count, over all signatures.
        sqnr_db: Signal-to-noise ratio of the logits against Keras's, but for
            what all logits of a place share.
        token_agreement: Share of Keras's own greedy tokens that the file
            takes at the same place, in [0, 1].
        num_tokens: How many were compared.
        decode_tokens_per_second: Of the check, on this machine, one thread.
        peak_memory_bytes: Of the process that ran the check.
        litert_lm: What LiteRT-LM's engine said of a `.litertlm` bundle;
            None for a `.tflite`.
        warnings: What is worth knowing, but no reason to refuse the file.
    """

    path: pathlib.Path
    size_bytes: int
    num_parameters: int
    quantize: str | None
    max_length: int
    prefill_lengths: tuple[int, ...]
    tokenizer: str | None
    has_chat: bool
    operators: dict[str, int]
    sqnr_db: float
    token_agreement: float
    num_tokens: int
    decode_tokens_per_second: float
    peak_memory_bytes: int
    litert_lm: str | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        lengths = ", ".join(map(str, self.prefill_lengths)) or "none"
        chat = ", knows chat turns" if self.has_chat else ""
        lines = [
            f"{self.path}: {self.size_bytes:,} bytes, "
            f"{self.num_parameters:,} parameters",
            f"  quantize {self.quantize or 'float32'}, cache of "
            f"{self.max_length} tokens, prefill of {lengths}",
            f"  tokenizer: {self.tokenizer or 'none'}{chat}",
            f"  verified on {self.num_tokens} greedy tokens: "
            f"{self.token_agreement:.1%} equal to Keras, SQNR "
            f"{self.sqnr_db:.1f} dB",
            f"  {self.decode_tokens_per_second:.1f} tokens/s, "
            f"{format_bytes(self.peak_memory_bytes)} at the most",
        ]
        if self.litert_lm:
            lines.append(f"  LiteRT-LM: {self.litert_lm}")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)
