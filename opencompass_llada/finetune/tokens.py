"""Turns text into tokens: the tokenizer of a run, trained on its text or the checkpoint's."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opencompass_llada.assets import resolve_path
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.text import read_documents
from opencompass_llada.networks import locate_checkpoint, read_model_config
from opencompass_llada.prompting.encode import EOT_TOKEN, load_tokenizer

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
