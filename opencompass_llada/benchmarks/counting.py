"""Counts tokens of prompts with GPT-4's tokenizer or a model's own."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.runs.hashes import find_tokenizer, hash_file

#: tiktoken's model name -> its vocabulary, and name (sha1 of its URL) and sha256 of the file of it.
TIKTOKEN_FILES = {
    "gpt-4": (
        "cl100k_base",
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    )
}
_VOCABULARY, _FILE_NAME, _SHA256 = TIKTOKEN_FILES["gpt-4"]


def tiktoken_path() -> Path:
    """Return where tiktoken looks for the file of GPT-4's vocabulary."""
    default = Path(tempfile.gettempdir()) / "data-gym-cache"
    named = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(named or default) / _FILE_NAME


def tiktoken_state() -> str:
    """Return present, missing or damaged; a damaged file is one that tiktoken would delete."""
    path = tiktoken_path()
    if not path.is_file():
        return "missing"
    return "present" if hash_file(path) == _SHA256 else "damaged"


def describe_damage() -> str:
    """Say what is wrong with a damaged file and how to replace it."""
    path = tiktoken_path()
    return (
        f"{path} is not tiktoken's {_VOCABULARY} file: its sha256 is not {_SHA256[:16]}..., so "
        "that tiktoken would delete it. Copy the file again from a machine where tiktoken has "
        "run, or fetch it where there is a network: "
        f"rm {path} && python -c \"import tiktoken; tiktoken.get_encoding('{_VOCABULARY}')\""
    )


class TiktokenTokenizer:
    """GPT-4's tokenizer, which NeedleBench counts with; its methods are `ModelTokenizer`'s.

    tiktoken deletes a file whose hash is wrong and downloads it again; where there is no network
    that loses the file. Here a damaged one is refused before tiktoken sees it.
    """

    def __init__(self, name: str) -> None:
        """Load the vocabulary of a key of `TIKTOKEN_FILES`."""
        import tiktoken

        if tiktoken_state() == "damaged":
            raise MissingDataError(f"tokenizer={name!r}: {describe_damage()}", "tiktoken")
        try:
            self._encoding = tiktoken.get_encoding(_VOCABULARY)
        except Exception as error:
            reason = shorten(str(error), 160, placeholder=" ...")
            raise MissingDataError(
                f"tokenizer={name!r} needs tiktoken's {_VOCABULARY} file, which is not in "
                "TIKTOKEN_CACHE_DIR and could not be downloaded "
                f"({type(error).__name__}: {reason}). Set TIKTOKEN_CACHE_DIR to a folder "
                f"that holds the file under the name {_FILE_NAME} (copy it from a machine where "
                "tiktoken has run), or count lengths with the model's own tokenizer instead "
                "(tokenizer=<the model's path>, or LLADA_TOKENIZER=model for the shipped configs).",
                "tiktoken",
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a piece of text; special tokens' text in it is text."""
        return self._encoding.encode(text, disallowed_special=())

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._encoding.decode(list(tokens))

    def count(self, text: str, *, as_turn: bool = False) -> int:
        """Return the number of tokens of a prompt; GPT-4's tokenizer adds none of its own."""
        return len(self.encode(text))

    def template(self) -> None:
        """Return None: a model's template cannot be known here."""

    def identity(self) -> str:
        """Return the vocabulary's name, which stands for a file that tiktoken checks."""
        return f"tiktoken {self._encoding.name}"


class ModelTokenizer:
    """A model's own tokenizer, loaded with transformers."""

    def __init__(self, path: str) -> None:
        """Load the tokenizer of a folder, a hub name, or ``asset:NAME``."""
        from opencompass_llada.prompting.encode import load_tokenizer

        try:
            self._tokenizer: Any = load_tokenizer(resolve_path(path), {})
        except (OSError, ValueError) as error:
            raise MissingDataError(
                f"tokenizer={path!r} could not be loaded "
                f"({type(error).__name__}: {str(error)[:200]}). Give the folder or hub name of a "
                "checkpoint that holds a tokenizer, asset:NAME for a shipped one, or "
                f"{' or '.join(map(repr, TIKTOKEN_FILES))} to count as NeedleBench does."
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without special tokens."""
        # verbose=False: transformers warns about texts longer than the model's trained length.
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; a character cut in two becomes U+FFFD."""
        return self._tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def count(self, text: str, *, as_turn: bool = False) -> int:
        """Return how many tokens a model sees for a whole prompt.

        With ``as_turn`` the chat template, if there is one, is put around it as the wrapper's
        ``chat=True`` does.
        """
        if as_turn and self._in_template is not None:
            return self._in_template(text)
        return len(self._tokenizer(text, verbose=False)["input_ids"])

    def template(self) -> str | None:
        """Return the checkpoint's chat template; None where there is none."""
        return self._tokenizer.chat_template and self._tokenizer.get_chat_template()

    @cached_property
    def _in_template(self) -> Callable[[str], int] | None:
        """Count a text as the turn that a model is asked with; None without a template."""
        from opencompass_llada.prompting.chat import ChatOptions, ChatRenderer, Turn
        from opencompass_llada.prompting.encode import PromptEncoder

        if self.template() is None:
            return None
        renderer = ChatRenderer(self._tokenizer, ChatOptions())
        encoder = PromptEncoder(self._tokenizer, None)
        return lambda text: len(
            encoder.encode(renderer.render([Turn("user", text)], for_answer=True))
        )

    def identity(self) -> str:
        """Return a text that is the same for tokenizers that make the same tokens only."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = backend.to_str()
        else:  # a slow tokenizer: its class does the rest
            content = json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return f"{type(self._tokenizer).__name__} {digest}"


CountingTokenizer = TiktokenTokenizer | ModelTokenizer


def name_tokenizer(name: str) -> str:
    """Return what the names of data sets call a tokenizer: two with one content have one name.

    That is ``gpt-4``, or a vocabulary's size and its hash's beginning as in ``vocab2048-1a2b3c``;
    where the files are not at hand (then no prompt can be made either), the path's last part.
    """
    if name in TIKTOKEN_FILES:
        return name
    found = find_tokenizer(name) or find_tokenizer(name, fetch=True)
    if found is None:
        return name.rstrip("/").split("/")[-1]
    content, size = found
    return f"vocab{size or ''}-{content[:6]}"


def find_template(name: str) -> str | None:
    """Return a tokenizer's chat template; None without one, or where its files are not at hand."""
    try:
        return load_counting_tokenizer(name).template()
    except MissingDataError:
        return None


def load_counting_tokenizer(name: str) -> CountingTokenizer:
    """Load the tokenizer ``'gpt-4'``, or that of a checkpoint's path.

    Raises a MissingDataError if its files are not there, or tiktoken would delete them.
    """
    if name == "model":
        raise ValueError(
            "tokenizer='model' means nothing to a data set, which does not know the model it is "
            "run with: give the model's path, or use needlebench/niah.py's functions, which put "
            "it in its place."
        )
    return TiktokenTokenizer(name) if name in TIKTOKEN_FILES else ModelTokenizer(name)
