"""One process of a run that gets its text, for test_gathering; the first argument says how."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist
from finetune_runs import ranks_of, small_recipe

from opencompass_llada.finetune import encoding, gathering
from opencompass_llada.finetune.corpus import read_corpus
from opencompass_llada.finetune.parallel import start_processes
from opencompass_llada.processes import stop_processes

RANK = int(os.environ["RANK"])
RANKS = ranks_of(RANK, 2)
encoding.CHUNK_CHARACTERS = 200
gathering.SILENT_SECONDS, gathering._BEAT_SECONDS, gathering._POLL_SECONDS = 5.0, 0.2, 0.05


class Tokens:
    """One token a character, slowly; counts the texts that this process tokenises."""

    def __init__(self, pause: float) -> None:
        self.pause, self.num_texts = pause, 0
        self.end_token_id, self.digest = 0, "a"

    def encode_all(self, texts):
        time.sleep(self.pause)
        self.num_texts += len(texts)
        os.write(1, b"encoding\n")
        return [[ord(character) for character in text] for text in texts]


def read(recipe, pause=0.0):
    """Return what one process sees of the text, and how many documents it has tokenised."""
    tokens = Tokens(pause)
    with gathering.Gathering(RANKS) as together:
        corpus = read_corpus(recipe, tokens, together)
        together.all_hear("ready", True)
    (text,) = corpus.texts
    return {
        "made": tokens.num_texts,
        "tokens": int(text.tokens.astype(int).sum()),
        "files": list(text.files),
    }, together.store


def main(folder: Path) -> dict:
    """Get the text in every way, one after the other in the same processes."""
    text = [{"paths": [str(folder / "a.jsonl")]}]
    seen = {}
    # Longer than the silence after which a process counts as ended.
    recipe = small_recipe(text=text, cache_dir=str(folder / "shared"), tokenizing_processes=1)
    begun = time.monotonic()
    seen["shared"], store = read(recipe, pause=0.25)
    seen["seconds"] = time.monotonic() - begun
    seen["again"], _ = read(recipe)
    seen["none"], _ = read(small_recipe(text=text, cache_dir="none", tokenizing_processes=1))
    seen["left"] = [path.name for path in Path(tempfile.gettempdir()).glob(".opencompass*")]
    own = small_recipe(text=text, cache_dir=str(folder / f"own{RANK}"), tokenizing_processes=1)
    if RANK == 1:  # as on another machine, which does not see the main rank's folder
        gathering.Path = lambda path: SimpleNamespace(exists=lambda: False)
        gathering.host_name = lambda: "elsewhere"
    seen["local"], _ = read(own)
    gathering.Path = Path
    (folder / f"{RANK}.jsonl").write_text(json.dumps({"text": "x" * (RANK + 1)}) + "\n")
    wrong = {
        "absent": small_recipe(text=[{"paths": [str(folder / "none.txt")]}]),
        "differ": small_recipe(
            text=[{"paths": [str(folder / f"{RANK}.jsonl")]}], cache_dir=str(folder / f"own{RANK}")
        ),
    }
    for name, recipe in wrong.items():
        if name == "differ" and RANK == 1:
            gathering.Path = lambda path: SimpleNamespace(exists=lambda: False)
        try:
            read(recipe)
        except ValueError as error:
            seen[name] = f"{type(error).__name__}: {error}"
    group = start_processes(RANKS, store)
    dist.barrier()
    seen["group"] = [dist.get_backend(), group is None]
    stop_processes()
    return seen


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "all":
        (folder / f"seen{RANK}.json").write_text(json.dumps(main(folder)))
    else:  # one that is killed meanwhile
        recipe = small_recipe(
            text=[{"paths": [str(folder / "a.jsonl")]}], cache_dir=str(folder / "killed")
        )
        try:
            read(recipe, pause=0.3)
        except gathering.PeerEnded as error:
            sys.exit(f"PeerEnded: {error}")
