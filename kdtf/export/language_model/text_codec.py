"""Text to token ids and back, as a client does it: without Keras."""

from collections.abc import Sequence
from typing import Any

__all__ = ["BYTE_PAIRS", "PIECES", "TextCodec"]

# File names that clients look for.
BYTE_PAIRS = "tokenizer.json"
PIECES = "tokenizer.model"


class TextCodec:
    """A tokenizer file, loaded.

    Args:
        content: The file's bytes.
        name: "tokenizer.json" (Hugging Face) or "tokenizer.model"
            (SentencePiece).

    Raises:
        ValueError: The bytes are no such file.
    """

    def __init__(self, content: bytes, name: str) -> None:
        """Loads the tokenizer."""
        self.content = content
        self.name = name
        try:
            self._codec = (
                _byte_pairs(content) if name == BYTE_PAIRS else _pieces(content)
            )
        # The tokenizers library raises plain `Exception`.
        except Exception as error:
            raise ValueError(
                f"A tokenizer must be a {BYTE_PAIRS} of Hugging Face's or a "
                "SentencePiece model. Received: one that does not load: "
                f"{type(error).__name__}: {error}"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of `text`, with no start or end token added."""
        if self.name == BYTE_PAIRS:
            return list(self._codec.encode(text, add_special_tokens=False).ids)
        return list(self._codec.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens; special ones are left out."""
        ids = [int(i) for i in ids]
        if self.name == BYTE_PAIRS:
            return str(self._codec.decode(ids, skip_special_tokens=True))
        control = self._codec.IsControl
        return str(self._codec.DecodeIds([i for i in ids if not control(i)]))

    def token_id(self, token: str) -> int | None:
        """Returns the number of a token, None if there is none."""
        if self.name == BYTE_PAIRS:
            found = self._codec.token_to_id(token)
            return None if found is None else int(found)
        number = int(self._codec.PieceToId(token))
        return number if self._codec.IdToPiece(number) == token else None

    @property
    def num_tokens(self) -> int:
        """How many tokens there are."""
        if self.name == BYTE_PAIRS:
            return int(self._codec.get_vocab_size())
        return int(self._codec.GetPieceSize())


def _byte_pairs(content: bytes) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(content.decode())


def _pieces(content: bytes) -> Any:
    import sentencepiece

    codec = sentencepiece.SentencePieceProcessor()
    codec.LoadFromSerializedProto(content)
    return codec
