"""Turns text into tokens: the tokenizer of a run, and tokenised text on disk.

A cache folder is named after a digest of everything that its tokens depend on. The cache of the
package datasets is not: it knows the mapping function's code, not what is in files and tokenizer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opencompass_llada.assets import resolve_path
from opencompass_llada.files import remove_left_overs, replacing, temporary_name, user_cache
from opencompass_llada.finetune.packing import TokenizedText
from opencompass_llada.finetune.recipe import Recipe, TextSource
from opencompass_llada.finetune.text import matching_files, read_documents
from opencompass_llada.networks import locate_checkpoint, read_model_config
from opencompass_llada.prompting.encode import EOT_TOKEN, load_tokenizer
from opencompass_llada.runs.hashes import hash_file

logger = logging.getLogger(__name__)

EOS_TOKEN = "<|endoftext|>"
MASK_TOKEN = "<|mdm_mask|>"


@dataclass(frozen=True, kw_only=True)
class TrainingTokenizer:
    """A tokenizer and the ids that training needs."""

    tokenizer: PreTrainedTokenizerFast
    end_token_id: int | None
    """Ends a document and an answer; None if the tokenizer has no such token."""
    mask_token_id: int | None
    """None for an autoregressive network."""

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer without special tokens: their text is text, whatever the file marks."""
        fields = json.loads(self.tokenizer.backend_tokenizer.to_str())
        special = {*self.tokenizer.all_special_ids, self.end_token_id, self.mask_token_id}
        for token in fields["added_tokens"]:
            token["special"] = token["special"] or token["id"] in special
        plain = Tokenizer.from_str(json.dumps(fields))
        plain.no_truncation()
        plain.no_padding()
        plain.encode_special_tokens = True
        return plain

    def __getstate__(self) -> dict[str, Any]:
        """Leave `_plain` out, which forgets in another process that special tokens are text."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens; the text of a special token is text like any other."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of several texts as `encode` does."""
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [row.ids for row in encoded]
        for name in ("mask_token_id", "end_token_id"):
            token = getattr(self, name)
            if any(token in ids for ids in rows):
                raise ValueError(
                    f"text: the tokenizer reads the text of its special token {token} ({name}, "
                    f"{self.decode([token])!r}) as that token, and offers no way to read it as "
                    "text. Take that text out of the documents, or use another tokenizer.json."
                )
        return rows

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens as they are written."""
        return self.tokenizer.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False)

    @property
    def digest(self) -> str:
        """A digest of everything that decides its output."""
        return hashlib.sha256(self._plain.to_str().encode()).hexdigest()


def make_tokenizer(recipe: Recipe) -> TrainingTokenizer:
    """Train the tokenizer on the recipe's text, or load the checkpoint's."""
    if recipe.init_from is None:
        assert recipe.vocab_size is not None
        texts = (document.text for source in recipe.text for document in read_documents(source))
        tokenizer = train_tokenizer(texts, recipe.vocab_size)
        return TrainingTokenizer(
            tokenizer=tokenizer,
            end_token_id=tokenizer.convert_tokens_to_ids(EOS_TOKEN),
            mask_token_id=tokenizer.convert_tokens_to_ids(MASK_TOKEN),
        )
    folder = locate_checkpoint(resolve_path(recipe.init_from))
    fields = read_model_config(folder)
    try:
        tokenizer = load_tokenizer(folder, {})
    except ValueError as error:
        raise ValueError(
            f"init_from={recipe.init_from!r} holds no tokenizer that can be loaded ({error}). Put "
            "tokenizer.json and tokenizer_config.json beside config.json."
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"init_from={recipe.init_from!r} has no fast tokenizer (tokenizer.json).")
    return TrainingTokenizer(
        tokenizer=tokenizer,
        end_token_id=tokenizer.eos_token_id,
        mask_token_id=fields.get("mask_token_id"),
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of that many entries, special tokens included.

    Digits are one token each, which retrieval of numbers needs.
    """
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, EOT_TOKEN, MASK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        additional_special_tokens=[EOT_TOKEN],
        clean_up_tokenization_spaces=False,
    )


_FORMAT = 2  # of the files and how text is tokenised; another number makes other folders
_BATCH = 64  # documents that are tokenised together


def default_folder() -> Path | None:
    """Return where tokens are cached; None if OPENCOMPASS_LLADA_CACHE says ``none``."""
    return user_cache("tokens")


def tokenize_source(
    source: TextSource,
    tokens: TrainingTokenizer,
    folder: Path | None,
    *,
    max_document_tokens: int | None = None,
) -> TokenizedText:
    """Return a source's tokens, memory-mapped, from the cache in a folder where they are there.

    Without a folder a temporary one is used. A ValueError says that the source is wrong, holds no
    document, or holds one that is longer than what is allowed.
    """
    described = _describe_source(source)
    key = {
        "format": _FORMAT,
        "source": described,
        "tokenizer": tokens.digest,
        "end_token_id": tokens.end_token_id,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    try:
        temporary = Path(tempfile.gettempdir())
        root = folder or temporary / temporary_name("opencompass-llada-tokens")
        remove_left_overs(temporary, recursive=False)
        remove_left_overs(root, recursive=False)
        try:
            text = _read(root / name)
            if text is None:
                _write(root / name, key, _encode_documents(source, tokens))
                text = _read(root / name)
            else:
                logger.info("Tokens of %s read from %s", source, root / name)
        finally:
            if folder is None:  # the mapping keeps the data until it is closed
                shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"cache_dir: the tokens of the text cannot be kept in {str(folder or 'a temporary ')!r}"
            f" ({error.strerror or error}). Name a folder that can be written to and has room, or "
            "cache_dir=none."
        ) from error
    assert text is not None, "just written"
    longest = int(text.lengths.argmax())
    if max_document_tokens is not None and text.lengths[longest] > max_document_tokens:
        raise ValueError(
            f"text source: document {longest} has {text.lengths[longest]} tokens, more than "
            f"max_document_tokens={max_document_tokens}. Raise it, or leave it out to cut long "
            f"documents into consecutive windows. Source: {source}"
        )
    has_end = tokens.end_token_id is not None
    return dataclasses.replace(text, has_end=has_end, files=dict(described["files"]))


def _describe_source(source: TextSource) -> dict[str, Any]:
    """Return what a source's text depends on: its options, and its files' names and digests.

    Of a data set's folder sizes and times; of a hub id nothing, so that a new version needs another
    cache folder.
    """
    facts = dataclasses.asdict(source)
    del facts["weight"], facts["paths"]
    files = [(file.name, hash_file(file)) for file in matching_files(source)]
    folder = Path(os.path.expandvars(source.dataset or ""))
    if source.dataset is not None and folder.is_dir():
        found = [(file.relative_to(folder), file.stat()) for file in sorted(folder.rglob("*"))]
        files += [(str(name), f"{stat.st_size}-{stat.st_mtime_ns}") for name, stat in found]
    return {**facts, "files": files}


def _read(folder: Path) -> TokenizedText | None:
    """Open a cache folder; None where there is none, or its arrays are not what was written."""
    key = folder / "key.json"
    if not key.is_file():
        return None
    with suppress(OSError, ValueError, KeyError, EOFError):
        tokens, ends, lengths = arrays = _load(folder)
        if json.loads(key.read_text(encoding="utf-8"))["sha256"] == (digest := _digest(arrays)):
            return TokenizedText(tokens=tokens, ends=ends, prompt_lengths=lengths, digest=digest)
    logger.warning("Tokens in %s are damaged and are made anew", folder)
    shutil.rmtree(folder)
    return None


def _load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.memmap(folder / "tokens.bin", np.int32, "r"),
        np.load(folder / "ends.npy", allow_pickle=False),
        np.load(folder / "prompt_lengths.npy", allow_pickle=False),
    )


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _encode_documents(
    source: TextSource, tokens: TrainingTokenizer
) -> Iterator[tuple[list[int], int]]:
    """Yield each document's tokens with its end token, and the length of its prompt."""
    end = [] if tokens.end_token_id is None else [tokens.end_token_id]
    documents = (document for document in read_documents(source) if document.text)
    while batch := list(itertools.islice(documents, _BATCH)):
        texts = tokens.encode_all([document.text for document in batch])
        prompts: list[list[int]] = [[]] * len(batch)
        if source.prompt_field is not None:
            prompts = tokens.encode_all([document.prompt for document in batch])
        for prompt, ids in zip(prompts, texts, strict=True):
            yield [*prompt, *ids, *end], len(prompt)


def _write(target: Path, key: dict[str, Any], documents: Iterator[tuple[list[int], int]]) -> None:
    """Write all files of a cache folder, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(target) as part:
            part.mkdir()
            ends, prompts, total = [], [], 0
            with (part / "tokens.bin").open("wb") as file:
                for ids, prompt_length in documents:
                    file.write(np.array(ids, np.int32).tobytes())
                    total += len(ids)
                    ends.append(total)
                    prompts.append(prompt_length)
            if not ends:
                raise ValueError(
                    f"text source holds no document with text: {key['source']}. Correct it or "
                    "leave it out."
                )
            np.save(part / "ends.npy", np.array(ends, np.int64))
            np.save(part / "prompt_lengths.npy", np.array(prompts, np.int32))
            digest = _digest(_load(part))
            text = json.dumps({**key, "sha256": digest}, sort_keys=True)
            (part / "key.json").write_text(text, encoding="utf-8")
    except OSError:
        if not (target / "key.json").is_file():  # else another process was faster
            raise
