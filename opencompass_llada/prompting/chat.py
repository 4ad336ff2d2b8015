"""Renders conversations, read from OpenCompass's prompts, by the checkpoint's chat template.

A template is used where a config asks for it and nowhere else: nothing is decided by a name.
"""

from __future__ import annotations

import ctypes
import logging
import operator
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from jinja2.sandbox import SandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from opencompass_llada.options import build, check_fields, show
from opencompass_llada.prompting.encode import Piece, PromptText

logger = logging.getLogger(__name__)

#: What a chat template may take for one conversation; a published one takes milliseconds.
RENDER_SECONDS, RENDER_BYTES = 10.0, 2**30
_PROBE = "Is this turn in the prompt?"
#: Characters that Unicode leaves to private use; those that no turn holds mark places in a text.
_PRIVATE = range(0xF0000, 0xFFFFE)
#: OpenCompass's roles, and those of messages as chat APIs take them -> the templates' roles.
_ROLES = {
    "SYSTEM": "system",
    "HUMAN": "user",
    "BOT": "assistant",
    **{role: role for role in ("system", "user", "assistant")},
}


class Turn(NamedTuple):
    """One turn of a conversation; the role is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How conversations become prompts; the wrapper's ``chat``, where True takes the defaults."""

    template: str | None = None
    """File with a template in jinja; None takes the tokenizer's own."""
    system: str | None = None
    """System turn put before conversations that have none of their own."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Variables that the template reads, e.g. ``dict(enable_thinking=False)``."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, "chat: ")
        for name in ("template", "system"):
            if getattr(self, name) == "":
                raise ValueError(f"chat: {name}='' must be a text; leave it out for none")


def parse_chat(chat: Any) -> ChatOptions | None:
    """Return the options of the wrapper's ``chat``: True, fields of `ChatOptions`, or none."""
    if chat is None or isinstance(chat, bool):
        return ChatOptions() if chat else None
    if not isinstance(chat, Mapping | ChatOptions):
        raise ValueError(
            f"chat={show(chat)} must be True, False or a dict of options, e.g. chat=True"
        )
    return build(ChatOptions, chat, "chat")


def read_turns(items: Sequence[Any], mode: str) -> list[Turn]:
    """Return the turns of a prompt.

    The items are a PromptList's (turns, texts, and the borders of its sections) or messages. Mode
    ``gen`` leaves out the answer, the assistant's turn that ends the round, and all that follows
    it; ``ppl`` leaves out nothing. As OpenCompass's own chat wrapper does, empty turns are skipped
    and neighbours of one role are joined by a line break. Unlike there a system turn stays one
    (there it becomes the user's), and text outside of any turn is the user's (there it is dropped).
    """
    turns: list[Turn] = []
    asked: list[bool] = []  # whether the turn stands in the round that is asked, not before it
    section: str | None = "round"
    for item in items:
        if isinstance(item, Mapping) and "section" in item:
            section = item["section"] if item["pos"] == "begin" else None
        elif not isinstance(item, str) or item.strip():
            turns.append(_read_turn(item))
            asked.append(section == "round")
    if mode == "gen":
        places = [index for index, is_asked in enumerate(asked) if is_asked]
        answer = list(takewhile(lambda index: turns[index].role == "assistant", reversed(places)))
        turns = turns[: answer[-1]] if answer else turns
    said = groupby((turn for turn in turns if turn.content), key=lambda turn: turn.role)
    return [Turn(role, "\n".join(turn.content for turn in same)) for role, same in said]


def _read_turn(item: Any) -> Turn:
    if isinstance(item, str):
        return Turn("user", item)
    role = _ROLES.get(item["role"], _ROLES.get(item.get("fallback_role")))
    if role is None:
        raise ValueError(
            f"The data set's prompt has a turn of role {item['role']!r}; a chat template knows "
            f"{', '.join(_ROLES)}. Change the role, or give it a fallback_role of these."
        )
    said = item.get("prompt", item.get("content"))
    if said is not None and not isinstance(said, str):
        raise ValueError(
            f"The data set's prompt has a turn of {type(said).__name__} where text is wanted: "
            f"{str(said)[:60]!r}. Only text is supported."
        )
    return Turn(role, said or "")


class ChatRenderer:
    """Renders conversations by one template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: ChatOptions) -> None:
        """Find the template and try it on a plain question."""
        self._tokenizer = tokenizer
        self._options = options
        #: The template in jinja.
        self.template = _find_template(tokenizer, options.template)
        added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
        texts = {str(token.content) for token in added} | set(tokenizer.all_special_tokens)
        by_length = sorted(texts, key=len, reverse=True)  # so that none hides a longer one
        self._special_pattern = re.compile("|".join(map(re.escape, by_length)) or "(?!)")
        self._warned = False
        if _PROBE not in self.render([Turn("user", _PROBE)], for_answer=True):
            raise ValueError(
                "chat: the chat template leaves out what the user says; give another one with "
                "chat=dict(template=FILE)"
            )

    def render(self, turns: Sequence[Turn], *, for_answer: bool) -> PromptText:
        """Return a conversation as the model is to read it.

        The names of special tokens inside turns (``<|eot_id|>`` in a document, say) are marked as
        text, so that nothing that is said ends its turn or begins another. It ends in the opening
        of the assistant's next turn ``for_answer``, else with the last turn's own words.
        """
        if self._options.system is not None and all(turn.role != "system" for turn in turns):
            turns = [Turn("system", self._options.system), *turns]
        contents = [turn.content for turn in turns]
        free = (chr(code) for code in _PRIVATE if not any(chr(code) in c for c in contents))
        special = self._special_pattern
        found: set[str] = {name for content in contents for name in special.findall(content)}
        marks = {name: next(free) for name in sorted(found)}
        if found and not self._warned:
            self._warned = True
            logger.warning(
                "A conversation holds the text of special tokens (%s); it is read as plain text, "
                "so that it ends no turn. Said once.",
                ", ".join(marks),
            )
        contents = [special.sub(lambda match: marks[match.group()], text) for text in contents]
        end = "" if for_answer else next(free)
        contents[-1] += end
        pairs = zip(turns, contents, strict=True)
        messages = [{"role": turn.role, "content": content} for turn, content in pairs]
        text = self._apply(messages, for_answer)
        if end:
            text, mark, _ = text.rpartition(end)
            if not mark:
                raise ValueError("chat: the chat template leaves out the last turn of a prompt")
        names = {mark: name for name, mark in marks.items()}
        parts = re.split(f"([{''.join(names)}])", text) if names else [text]
        pieces = (Piece(names.get(part, part), is_literal=part in names) for part in parts)
        return PromptText(piece for piece in pieces if piece.text)

    def _apply(self, messages: Sequence[Mapping[str, str]], for_answer: bool) -> str:
        size = sum(len(message["content"]) for message in messages)
        options = {"chat_template": self.template, "add_generation_prompt": for_answer}
        options |= {"tokenize": False, **self._options.variables}
        try:
            with _bounded(RENDER_SECONDS, RENDER_BYTES + 64 * size):
                return str(self._tokenizer.apply_chat_template(list(messages), **options))
        except Exception as error:  # jinja's own errors, and whatever a template's filters raise
            roles = ", ".join(message["role"] for message in messages)
            fault = (
                f"does not take a conversation of {roles} ({type(error).__name__}: {error}). "
                "Change the data set's prompt_template, or give"
            )
            if isinstance(error, TimeoutError | MemoryError):
                fault = (
                    f"took more than {RENDER_SECONDS} seconds or {RENDER_BYTES >> 20} MiB for a "
                    f"conversation of {size} characters; it loops or grows without end. Give"
                )
            raise ValueError(
                f"chat: the chat template {fault} another template with chat=dict(template=FILE)."
            ) from error


def _find_template(tokenizer: PreTrainedTokenizerBase, file: str | None) -> str:
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ValueError(f"chat['template']={file!r} is no file; give a jinja template's path")
        return path.read_text(encoding="utf-8")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ValueError(
            "chat is asked for, but the checkpoint's tokenizer has no chat template. Leave chat "
            "out for a base model; for a chat model give its template, chat=dict(template=FILE), "
            "or a tokenizer that has one, tokenizer_path."
        ) from error


@contextmanager
def _bounded(seconds: float, num_bytes: int) -> Iterator[None]:
    """Bound the time, memory (on Linux) and powers of a template, which is a stranger's program.

    transformers renders in jinja's sandbox, which keeps templates from files and processes and not
    from loops without end, ``'x' * 10**10`` or ``10 ** (10 ** 9)``.
    """
    table = {**SandboxedEnvironment.default_binop_table, "**": _power}
    with (
        mock.patch.object(SandboxedEnvironment, "intercepted_binops", frozenset({"**"})),
        mock.patch.object(SandboxedEnvironment, "default_binop_table", table),
        _limited_memory(num_bytes),
        _limited_time(seconds),
    ):
        yield


def _power(base: Any, exponent: Any) -> Any:
    if not abs(exponent) <= 1000:
        raise ValueError(f"the template asks for a power of {exponent}")
    return operator.pow(base, exponent)


@contextmanager
def _limited_time(seconds: float) -> Iterator[None]:
    lock, thread, is_over = threading.Lock(), ctypes.c_ulong(threading.get_ident()), False
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not is_over:
                raise_in(thread, ctypes.py_object(TimeoutError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over = True
        raise_in(thread, None)  # takes back what was not raised yet
        timer.cancel()


@contextmanager
def _limited_memory(num_bytes: int) -> Iterator[None]:
    facts = Path("/proc/self/statm")
    if not facts.is_file():
        yield
        return
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(facts.read_text().split()[0]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([taken + num_bytes, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
