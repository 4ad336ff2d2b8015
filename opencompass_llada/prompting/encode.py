"""Turns text to token ids and back, for prompts that may contain anything.

Loads tokenizers without remote code. Where there is a tokenizer.json, it says how text is read and
what stands before it, under either major of transformers; nothing is ever put behind a text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from opencompass_llada.options import check_value, show
from opencompass_llada.weight_files import SMALL_FILES, list_some

logger = logging.getLogger(__name__)

EOT_TOKEN = "<|eot_id|>"
#: What tokenizers call the tokens that images and sounds stand in for; no text means them.
_PLACEHOLDERS = ("image_token", "audio_token", "video_token")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HUB_OPTIONS = ("revision", "token", "cache_dir")
_FILE = "tokenizer.json"
_REMEDY = (
    "Give a folder that holds tokenizer.json and tokenizer_config.json, or a hub id, as "
    "tokenizer_path."
)
_FILES = (_FILE, "tokenizer_config.json", "tokenizer.model")
#: Parts of a tokenizer.json that some classes of either major replace by their own.
_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")
#: Options of ``from_pretrained`` that ask for other parts than the file's.
_CHANGE_PARTS = {"add_prefix_space", "add_bos_token", "add_eos_token", "legacy"}
#: Classes of transformers 4 that write the beginning of sequence as add_bos_token says.
_START_BY_OPTION = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")

#: Classes of remote code or of transformers 5 -> transformers' class that reads the files alike.
#: Dream's is Qwen2's with another name: same files, splitting pattern, merges and normalisation.
_SAME_AS = {
    "DreamTokenizer": "Qwen2TokenizerFast",
    "TokenizersBackend": "PreTrainedTokenizerFast",
}


def load_tokenizer(path: str | Path, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or a hub id, with keywords of ``from_pretrained``."""
    keywords = {**options, "trust_remote_code": False}
    folder = Path(path).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in _FILES):
        raise ValueError(f"The folder {str(path)!r} holds no tokenizer. {_REMEDY}")
    if not folder.is_dir() and str(path).startswith((".", "/", "~")):
        raise ValueError(f"No tokenizer: there is no folder {str(path)!r}. {_REMEDY}")
    try:
        if not folder.is_dir():  # a hub id, whose small files are read as a folder of them is
            known = {key: options[key] for key in _HUB_OPTIONS if key in options}
            known["allow_patterns"] = list(SMALL_FILES)
            folder = Path(huggingface_hub.snapshot_download(str(path), **known))
        name = str(get_tokenizer_config(str(folder)).get("tokenizer_class"))
        if name in _SAME_AS:
            logger.info("Tokenizer class %s is read as transformers' %s", name, _SAME_AS[name])
        kind = getattr(transformers, _SAME_AS.get(name, "AutoTokenizer"))
        with _without_remark_on_type():
            tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, **keywords)
        if (folder / _FILE).is_file() and not _CHANGE_PARTS & options.keys():
            _take_parts(tokenizer, folder)
        _keep_start_alone(tokenizer)
        return tokenizer
    except Exception as error:  # a broken tokenizer.json ends in a KeyError, or in Rust's own type
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"No tokenizer could be loaded from {str(path)!r} ({reason}). {_REMEDY}"
        ) from error


@contextmanager
def _without_remark_on_type() -> Iterator[None]:
    """Keep back that config.json is of a network that transformers does not know, as ours are."""

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("You are using a model of type")

    own = logging.getLogger("transformers.configuration_utils")
    own.addFilter(is_other)
    try:
        yield
    finally:
        own.removeFilter(is_other)


def _take_parts(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give a tokenizer the parts of its tokenizer.json, whatever its class made of them.

    LLaMA's and Gemma's classes read add_bos_token besides, where it is given.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    stored = Tokenizer.from_file(str(folder / _FILE))
    for name in _PARTS:
        setattr(backend, name, getattr(stored, name))
    settings, start = get_tokenizer_config(str(folder)), tokenizer.bos_token
    option = settings.get("add_bos_token")
    of_llama = str(settings.get("tokenizer_class")).removesuffix("Fast") in _START_BY_OPTION
    if option is not None and of_llama and start is not None:
        _set_start(tokenizer, [start] if option else [])


def _keep_start_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let nothing be put behind a text: an answer would begin after its end of sequence."""
    before, after = added_ids(tokenizer)
    if not after:
        return
    ends = tokenizer.convert_ids_to_tokens(after)
    logger.warning("The tokenizer puts %s behind every text; it is left out.", "".join(ends))
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        _set_start(tokenizer, tokenizer.convert_ids_to_tokens(before))
    else:
        tokenizer.add_eos_token = False
    if added_ids(tokenizer) != (before, []):
        raise ValueError(
            f"it puts {''.join(ends)} behind every text, where answers are to begin, and this "
            "cannot be turned off; correct the post_processor of its tokenizer.json"
        )


def _set_start(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Let a fast tokenizer put these special tokens before a text and nothing behind it."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*tokens, "$A"],
        special_tokens=[(token, find_token_id(tokenizer, token)) for token in tokens],
    )


def added_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and behind every text."""
    for probe in ("a", "0", "!"):
        text = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(probe)["input_ids"])
        if text:
            break
    else:
        return [], []  # a vocabulary of its own: nothing can be told
    for first in range(len(whole) - len(text) + 1):
        if whole[first : first + len(text)] == text:
            return whole[:first], whole[first + len(text) :]
    raise ValueError(
        f"it reads {probe!r} as {whole} with its special tokens and as {text} without them, which "
        "is not part of it; use another tokenizer"
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, num_rows: int | None) -> None:
    """Refuse a tokenizer with an id that the network has no embedding for.

    But for placeholders of images and sounds: Gemma 3's 1B text model has one beyond its embedding,
    and `PromptEncoder` reads them as text. ``num_rows`` is None where config.json does not say.
    """
    if num_rows is None:
        return
    vocabulary, excused = tokenizer.get_vocab(), _placeholder_ids(tokenizer)
    beyond = sorted((i, t) for t, i in vocabulary.items() if i >= num_rows and i not in excused)
    if beyond:
        named = list_some([f"{token!r} ({i})" for i, token in beyond])
        raise ValueError(
            f"the tokenizer has {len(beyond)} tokens beyond the network's {num_rows} embeddings: "
            f"{named}. Give the tokenizer of this checkpoint as tokenizer_path, or the "
            "checkpoint whose embedding was enlarged for them."
        )


def _placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    tokens = [getattr(tokenizer, name, None) for name in _PLACEHOLDERS]
    ids = [find_token_id(tokenizer, str(token)) for token in tokens if token is not None]
    return {found for found in ids if found is not None}


def check_token_id(name: str, value: Any, remedy: str) -> int:
    """Return the id of one token as an integer; anything else is a ValueError with the remedy."""
    with suppress(ValueError):
        if (token_id := int(check_value(name, value, int))) >= 0:
            return token_id
    raise ValueError(
        f"{name}={show(value)} must be one integer, a whole number from 0: a token's id; {remedy}"
    )


def find_token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Return the id of a token that the tokenizer knows as one, else None."""
    return tokenizer.get_vocab().get(token)


def count_bytes(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], before: Sequence[int] = ()
) -> int:
    """Return how many UTF-8 bytes tokens stand for; over consecutive stretches they add up.

    A token that begins or ends within a character has bytes of its own: all of a byte-level
    vocabulary, and ``<0xE4>`` elsewhere. A word may be decoded in another way behind what stands
    ``before`` it.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(token_ids))
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    slow = decoder is None and hasattr(tokenizer, "byte_decoder")
    if slow or (decoder is not None and b'"ByteLevel"' in decoder.__getstate__()):
        # One character of a token is one byte.
        added = tokenizer.get_added_vocab()
        return sum(len(token.encode() if token in added else token) for token in tokens)
    whole = [i for i, token in zip(token_ids, tokens, strict=True) if not _BYTE.fullmatch(token)]
    behind = list(before[-1:])
    text = tokenizer.decode([*behind, *whole], clean_up_tokenization_spaces=False)
    start = tokenizer.decode(behind, clean_up_tokenization_spaces=False) if behind else ""
    return len(tokens) - len(whole) + len(text.encode()) - len(start.encode())


class PromptEncoder:
    """Encodes prompts so that no text in them can become a mask, or the place of an image.

    The tokenizer of a masked diffusion model turns the mask token's text into the mask's id, which
    is replaced here by the ids of its characters. All other special tokens stay special, since chat
    templates need them; of a `PromptText` only those that its template wrote.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mask_token_id: int | None) -> None:
        """Find how the texts of mask and placeholders read as plain text; None is no mask."""
        self.tokenizer = tokenizer
        self.mask_token_id = mask_token_id
        masks = () if mask_token_id is None else (mask_token_id,)
        self._literal_ids = {
            token_id: self._read_literally(token_id)
            for token_id in (*masks, *_placeholder_ids(tokenizer))
        }
        self._start_ids, _ = added_ids(tokenizer)
        self._warned = False

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, with what the tokenizer itself adds (BOS, if it does).

        A prompt that begins with BOS already, from a meta_template say, does not get a second one.
        To a `PromptText` it adds nothing: its template wrote what there is to be.
        """
        if isinstance(text, PromptText):
            token_ids: list[int] = []
            for part, is_literal in text.pieces:
                if is_literal:
                    token_ids += self._read_as_text(part)
                else:
                    token_ids += self.tokenizer(part, add_special_tokens=False)["input_ids"]
        else:
            token_ids = list(self.tokenizer(text)["input_ids"])
            length = len(self._start_ids)
            if length and token_ids[length : 2 * length] == self._start_ids:
                token_ids = token_ids[length:]
        found = self._literal_ids.keys() & token_ids
        if not found:
            return token_ids
        if not self._warned:
            self._warned = True
            what = "mask token's" if self.mask_token_id in found else "image or sound token's"
            logger.warning("A prompt contains the %s text; it is read as plain text.", what)
        return [own for i in token_ids for own in self._literal_ids.get(i, [i])]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out, every space as it is."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(token_ids), **options))

    def count_bytes(self, token_ids: Sequence[int], before: Sequence[int] = ()) -> int:
        """Return the UTF-8 bytes of tokens, special ones without any; see `count_bytes`."""
        special = set(self.tokenizer.all_special_ids)
        return count_bytes(self.tokenizer, [i for i in token_ids if i not in special], before)

    def _read_literally(self, token_id: int) -> list[int]:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None or token_id not in self.tokenizer(token)["input_ids"]:
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


class Piece(NamedTuple):
    """A stretch of a rendered conversation."""

    text: str
    is_literal: bool
    """Whether it is the name of a special token that somebody wrote, which means none."""


class VerbatimText(str):
    """A prompt around which no chat template goes, whatever the model's config says."""

    def __str__(self) -> str:
        """Return itself, where `str` of another subclass would forget what it is."""
        return self


class PromptText(VerbatimText):
    """A conversation with its chat template, which wrote every special token that there is to be.

    A string, so that OpenCompass can print, join and save it as it does any prompt.
    """

    pieces: tuple[Piece, ...]

    def __new__(cls, pieces: Iterable[Piece]) -> PromptText:
        """Join the pieces."""
        pieces = tuple(pieces)
        text = super().__new__(cls, "".join(piece.text for piece in pieces))
        text.pieces = pieces
        return text

    def __getnewargs__(self) -> tuple[tuple[Piece, ...]]:  # type: ignore[override]
        """Let copies keep the pieces."""
        return (self.pieces,)
