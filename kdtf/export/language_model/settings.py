"""What a client must know of a language model beside its file's signatures."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

__all__ = ["CHATS", "Chat", "Settings", "chat_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """How turns of a conversation are written.

    Args:
        system: What stands before and after the instructions.
        user: What stands before and after what the user says.
        model: What stands before and after an answer.
        stop: The token that ends an answer.
    """

    system: tuple[str, str]
    user: tuple[str, str]
    model: tuple[str, str]
    stop: str

    def prompt(self, text: str) -> str:
        r"""Returns the text after which the model answers `text`.

        Example:
            >>> CHATS["<start_of_turn>"].prompt("Hi")
            '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
        """
        return f"{self.user[0]}{text}{self.user[1]}{self.model[0]}"


def _llama3(role: str) -> tuple[str, str]:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"


def _turns(role: str) -> tuple[str, str]:
    return f"<|im_start|>{role}\n", "<|im_end|>\n"


# A family is known by the token that opens its turns.
CHATS = {
    "<|im_start|>": Chat(
        system=_turns("system"),
        user=_turns("user"),
        model=_turns("assistant"),
        stop="<|im_end|>",
    ),
    "<|start_header_id|>": Chat(
        system=_llama3("system"),
        user=_llama3("user"),
        model=_llama3("assistant"),
        stop="<|eot_id|>",
    ),
    "<start_of_turn>": Chat(
        # Gemma has no such role: instructions are the user's.
        system=("<start_of_turn>user\n", "<end_of_turn>\n"),
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        model=("<start_of_turn>model\n", "<end_of_turn>\n"),
        stop="<end_of_turn>",
    ),
}


def chat_of(token_id: Callable[[str], int | None]) -> Chat | None:
    """Returns how a vocabulary writes conversations, None if it does not.

    Args:
        token_id: Gives the number of a token, None if there is none.

    Example:
        >>> chat_of({"<|im_start|>": 1, "<|im_end|>": 2}.get).stop
        '<|im_end|>'
    """
    for opening, chat in CHATS.items():
        if token_id(opening) is not None and token_id(chat.stop) is not None:
            return chat
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What travels with an exported language model.

    Args:
        max_length: Tokens its cache holds.
        start_token: What every text starts with; None if nothing.
        stop_tokens: After any of them nothing follows.
        chat: How conversations are written; None if it does not know.
        tokenizer: The name of the tokenizer's file; None without one.
    """

    max_length: int
    start_token: int | None = None
    stop_tokens: tuple[int, ...] = ()
    chat: Chat | None = None
    tokenizer: str | None = None

    def to_json(self) -> str:
        """Returns them as JSON; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Returns what `to_json` wrote.

        Raises:
            ValueError: The text is something else.

        Example:
            >>> settings = Settings(max_length=8, stop_tokens=(0,))
            >>> Settings.from_json(settings.to_json()) == settings
            True
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["stop_tokens"] = tuple(fields["stop_tokens"])
            if fields["chat"] is not None:
                fields["chat"] = _read_chat(fields["chat"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "The settings of a language model must be what kdtf wrote. "
                f"Received: {text[:80]!r}. Export the model again."
            ) from error


def _read_chat(fields: dict[str, Any]) -> Chat:
    # JSON has lists where the turns have pairs.
    turns = {name: tuple(fields[name]) for name in ("system", "user", "model")}
    return Chat(stop=fields["stop"], **turns)
