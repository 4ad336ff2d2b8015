"""Gets the tokens of all text of a recipe: one process of a machine makes them, all map them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opencompass_llada.finetune.gathering import Gathering
from opencompass_llada.finetune.packing import TokenizedText
from opencompass_llada.finetune.recipe import Recipe, TextSource
from opencompass_llada.finetune.token_files import read_tokens
from opencompass_llada.finetune.tokenizing import default_folder, token_folder, tokenize_source
from opencompass_llada.finetune.tokens import TrainingTokenizer


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The tokens of a recipe's text, memory-mapped."""

    texts: list[TokenizedText]
    """Of each source."""
    held_out: TokenizedText | None
    """Of the evaluation's text."""


def read_corpus(
    recipe: Recipe, tokens: TrainingTokenizer, gathering: Gathering | None = None
) -> Corpus:
    """Return the tokens of a recipe's text, made where they are in no cache.

    With a gathering of several processes one makes them and the others wait; all must call this. A
    ValueError names text that cannot be used, or that differs between machines.
    """
    folder = default_folder()
    if recipe.cache_dir is not None:
        folder = None if recipe.cache_dir == "none" else Path(recipe.cache_dir).expanduser()
    sources = [*recipe.text, *filter(None, [recipe.evaluation.text])]

    def make(source: TextSource, root: Path) -> TokenizedText:
        return tokenize_source(
            source,
            tokens,
            root,
            max_document_tokens=recipe.max_document_tokens,
            num_processes=recipe.tokenizing_processes,
        )

    # A temporary folder goes when all processes have mapped what is in it.
    with token_folder(folder) as root:
        rank = leader = 0
        if gathering is not None:
            rank, leader = gathering.ranks.rank, gathering.find_leader(root)
        if rank == leader:
            texts = [make(source, root) for source in sources]
            if gathering is not None:
                gathering.tell(f"texts-{rank}", [_describe(text) for text in texts])
        else:
            assert gathering is not None
            described = gathering.hear(f"texts-{leader}", leader)
            texts = [_open(facts, leader) for facts in described]
        if gathering is not None:
            _compare(gathering.all_hear("digests", [text.digest for text in texts]), rank)
    held_out = texts.pop() if recipe.evaluation.text is not None else None
    return Corpus(texts=texts, held_out=held_out)


def _describe(text: TokenizedText) -> dict[str, Any]:
    assert text.folder is not None, "just read from there"
    facts = {"has_end": text.has_end, "from_prompts": text.from_prompts, "files": text.files}
    return {"folder": str(text.folder.absolute()), **facts}


def _open(facts: dict[str, Any], leader: int) -> TokenizedText:
    text = read_tokens(Path(facts.pop("folder")), **facts)
    if text is None:
        raise ValueError(
            f"cache_dir: the tokens that rank {leader} has made are not seen by this process. Name "
            "a folder that all processes of a machine see, the same for all."
        )
    return text


def _compare(digests: list[list[str]], rank: int) -> None:
    """Refuse text that is another one than the main rank's."""
    for number, (first, own) in enumerate(zip(digests[0], digests[rank], strict=True), start=1):
        if first != own:
            raise ValueError(
                f"text: the tokens of source {number} differ between rank 0 and rank {rank}, whose "
                "machines have other files under the same paths. Copy the same files to all "
                "machines, or name a cache_dir that all of them see."
            )
