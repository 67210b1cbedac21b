"""Embedded real data and windows of tokens."""

from kdtf.data.embedded import digits
from kdtf.data.embedded import documentation_text
from kdtf.data.tokens import token_windows
from kdtf.data.tokens import train_tokenizer

__all__ = [
    "digits",
    "documentation_text",
    "token_windows",
    "train_tokenizer",
]
