"""Tokens and text, whole and piece by piece."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .schema import RequestError

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that are no whole character
_LONGEST_CHARACTER = 8  # tokens; UTF-8 needs 4 bytes at most, and some decoders add a marker


class Tokenizer:
    """The tokenizer of an engine folder: tokenizer.json, and the chat template where there is one."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Tokens

        try:
            self._tokens = Tokens.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"tokenizer.json can't be read: {error}") from None
        # A checkpoint may carry settings of its training, which would cut prompts silently.
        self._tokens.no_truncation()
        self._tokens.no_padding()
        config = _read_json(folder / "tokenizer_config.json")
        self._special = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
        source = _chat_template(folder, config)
        self._chat = _compile(source) if source else None

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` works."""
        return self._chat is not None

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text; with `special`, those that the tokenizer adds to a prompt (such as a beginning of text)."""
        ids: list[int] = self._tokens.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        text: str = self._tokens.decode(list(tokens), skip_special_tokens=True)
        return text

    def id_of(self, name: str) -> int | None:
        """The token that tokenizer_config.json names, for example "bos_token"; None where there is none."""
        text = self._special.get(name)
        token: int | None = self._tokens.token_to_id(text) if text else None
        return token

    def render(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt for chat turns ({"role", "content"}), up to where the assistant begins.

        Raises:
            RequestError: There is no template, or it refuses the turns.
        """
        if self._chat is None:
            raise RequestError("apply_chat_template must be false: this model has no chat template.")
        try:
            text: str = self._chat.render(messages=list(turns), add_generation_prompt=True, **self._special)
        except Exception as error:  # the template is the model's program: it may fail in any way
            raise RequestError(f"the model's chat template refuses the request: {error}.") from None
        return text


class Detokenizer:
    """Text of tokens as they come, never with half a character.

    A token's text can depend on those before it (a leading space, bytes of one character), so each step decodes the
    tokens since the last piece together with that piece.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._start = 0  # the last piece's first token
        self._end = 0  # the first token that no piece has yet

    def feed(self, token: int) -> str:
        """The text that this token completes, "" while it completes none."""
        self._tokens.append(token)
        before, after = self._decode()
        unsure = after.endswith(_INCOMPLETE) and len(self._tokens) - self._end < _LONGEST_CHARACTER
        if len(after) <= len(before) or unsure:
            return ""
        self._start, self._end = self._end, len(self._tokens)
        return after[len(before) :]

    def flush(self) -> str:
        """What is left at the end; bytes that never became a character are left out."""
        before, after = self._decode()
        self._start = self._end = len(self._tokens)
        return after[len(before) :].rstrip(_INCOMPLETE)

    def _decode(self) -> tuple[str, str]:
        return (
            self._tokenizer.decode(self._tokens[self._start : self._end]),
            self._tokenizer.decode(self._tokens[self._start :]),
        )


class Stops:
    """Finds stop texts in text that comes in pieces, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, piece: str) -> tuple[str, bool]:
        """(text that may go out, whether a stop text was found); nothing goes out from the stop text on."""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _content(token: Any) -> str:
    """A special token's text: older files nest it."""
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    source = _read_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template") or ""
    if isinstance(source, list):  # several by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default", "")
    return str(source)


def _compile(source: str) -> Any:
    """The template as transformers compiles it, in Jinja's sandbox: it came with the model."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks the assistant's turns for training; here its content is simply rendered."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own interface)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source)
