"""Embedded real data, and texts as windows of tokens."""

from kdtf.data.embedded import digits
from kdtf.data.embedded import documentation_text
from kdtf.data.instructions import instruction_windows
from kdtf.data.packing import pack_tokens
from kdtf.data.tokens import token_windows
from kdtf.data.tokens import train_tokenizer

__all__ = [
    "digits",
    "documentation_text",
    "instruction_windows",
    "pack_tokens",
    "token_windows",
    "train_tokenizer",
]
