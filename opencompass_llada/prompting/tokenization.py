"""Text to token ids and back, for prompts that may contain anything.

No remote code, and only `tokenizer(...)` calls: `batch_encode_plus` is gone in transformers 5.
Neither truncates nor pads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from opencompass_llada.logs import get_logger
from opencompass_llada.prompting.prompt_text import PromptText

logger = get_logger(__name__)

EOT_TOKEN = "<|eot_id|>"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")

#: Classes of checkpoints' remote code -> transformers' class that reads the same files alike.
#: Dream's is Qwen2's with another name: same files, splitting pattern, merges and normalisation.
_SAME_AS = {"DreamTokenizer": "Qwen2TokenizerFast"}


def load_tokenizer(path: str | Path, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or a hub id.

    Args:
        path: Where the tokenizer's files are.
        options: Keywords of ``from_pretrained``.

    Returns:
        The tokenizer.

    Raises:
        ValueError: If there is none, or it needs remote code.
    """
    keywords = {**options, "trust_remote_code": False}
    remedy = (
        "Give a folder that holds tokenizer.json and tokenizer_config.json, or a hub id, as "
        "tokenizer_path."
    )
    folder = Path(path).expanduser()
    source = folder if folder.is_dir() else path
    if folder.is_dir() and not any((folder / name).is_file() for name in _FILES):
        raise ValueError(f"The folder {str(path)!r} holds no tokenizer. {remedy}")
    if not folder.is_dir() and str(path).startswith((".", "/", "~")):
        raise ValueError(f"No tokenizer: there is no folder {str(path)!r}. {remedy}")
    try:
        if _written_by_transformers_5(folder):
            return PreTrainedTokenizerFast.from_pretrained(source, **keywords)
        name = get_tokenizer_config(str(source)).get("tokenizer_class")
        if name in _SAME_AS:
            known = getattr(transformers, _SAME_AS[name])
            logger.info("Tokenizer class %s is read as transformers' %s", name, _SAME_AS[name])
            return known.from_pretrained(source, **keywords)
        return AutoTokenizer.from_pretrained(source, **keywords)
    except Exception as error:  # a broken tokenizer.json ends in a KeyError, or in Rust's own type
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"No tokenizer could be loaded from {str(path)!r} ({reason}). {remedy}"
        ) from error


def _written_by_transformers_5(folder: Path) -> bool:
    """Tell whether the files name a class that transformers 4 does not have."""
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return False
    name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
    return name == "TokenizersBackend"


def find_token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Return the id of a token that the tokenizer knows as one, else None."""
    return tokenizer.get_vocab().get(token)


def count_bytes(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], before: Sequence[int] = ()
) -> int:
    """Return how many UTF-8 bytes tokens stand for.

    Tokens may begin or end within a character, whose bytes decoding them would turn into U+FFFD.
    So a token's own bytes are counted where it has any: all of a byte-level vocabulary, and
    ``<0xE4>`` of one that falls back to bytes.

    Args:
        tokenizer: Any tokenizer of transformers.
        token_ids: The tokens.
        before: What stands before them in the text; a word may be decoded in another way behind it.

    Returns:
        Bytes; over consecutive stretches they add up to the text's.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(token_ids))
    if _is_byte_level(tokenizer):  # one character of a token is one byte
        added = tokenizer.get_added_vocab()
        return sum(len(token.encode() if token in added else token) for token in tokens)
    words = [i for i, token in zip(token_ids, tokens, strict=True) if not _BYTE.fullmatch(token)]
    behind = list(before[-1:])
    text = tokenizer.decode([*behind, *words], clean_up_tokenization_spaces=False)
    start = tokenizer.decode(behind, clean_up_tokenization_spaces=False) if behind else ""
    return len(tokens) - len(words) + len(text.encode()) - len(start.encode())


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a vocabulary's entries are bytes, each written as one character."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is not None:
        return b'"ByteLevel"' in decoder.__getstate__()
    return hasattr(tokenizer, "byte_decoder")


class PromptEncoder:
    """Encodes prompts so that no text in them can become a mask.

    The tokenizer of a masked diffusion model turns the mask token's text into the mask's id, and
    the sampler would take it for a position to fill. Here that text stays text: its id is replaced
    by the ids of its characters. All other special tokens keep their meaning, since chat
    templates need them; of a `PromptText` only those that its template wrote.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mask_token_id: int | None) -> None:
        """Remember the tokenizer and how the mask token's text reads as plain text.

        Args:
            tokenizer: Any tokenizer of transformers.
            mask_token_id: The id that a prompt must not contain; None where there is no mask.

        Raises:
            ValueError: If the tokenizer offers no way to read the text literally.
        """
        self.tokenizer = tokenizer
        self.mask_token_id = mask_token_id
        self._literal_ids = self._read_literally()
        self._warned = False

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, with what the tokenizer itself adds (BOS, if it does).

        To a `PromptText` it adds nothing: its template wrote what there is to be.

        Args:
            text: The prompt.

        Returns:
            Token ids without the mask's.

        Raises:
            ValueError: If the text of a special token cannot be read as text.
        """
        if isinstance(text, PromptText):
            token_ids = self._encode_pieces(text)
        else:
            token_ids = list(self.tokenizer(text)["input_ids"])
        if self.mask_token_id not in token_ids:
            return token_ids
        if not self._warned:
            self._warned = True
            logger.warning(
                "A prompt contains the mask token's text; it is read as plain text, not as a mask."
            )
        literal = self._literal_ids
        return [
            piece
            for token_id in token_ids
            for piece in (literal if token_id == self.mask_token_id else [token_id])
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _encode_pieces(self, text: PromptText) -> list[int]:
        token_ids: list[int] = []
        for piece in text.pieces:
            if piece.is_literal:
                token_ids += self._read_as_text(piece.text)
            else:
                token_ids += self.tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        return token_ids

    def _read_literally(self) -> list[int]:
        if self.mask_token_id is None:
            return []
        token = self.tokenizer.convert_ids_to_tokens(self.mask_token_id)
        if token is None or self.mask_token_id not in self.tokenizer(token)["input_ids"]:
            return []
        return self._read_as_text(token)

    def _read_as_text(self, token: str) -> list[int]:
        """Return the ids of a special token's text, its own id not among them."""
        encoded = self.tokenizer(token, add_special_tokens=False, split_special_tokens=True)
        token_ids = list(encoded["input_ids"])
        own = find_token_id(self.tokenizer, token)
        if own in token_ids or self.mask_token_id in token_ids:
            raise ValueError(
                f"The tokenizer reads {token!r} in a prompt as its special token {own} and offers "
                "no way to read it as text; use a fast tokenizer (tokenizer.json)"
            )
        return token_ids
