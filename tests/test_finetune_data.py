"""Tokens on disk, made once and keyed by everything; kinds of sources; held-out perplexity."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetune_runs import SHORT, first_batches, small_recipe, small_trainer
from tiny import tiny_tokenizer

from opencompass_llada.files import host_name
from opencompass_llada.finetune.checkpoints import CheckpointIndex
from opencompass_llada.finetune.evaluation import measure_perplexity
from opencompass_llada.finetune.packing import TokenizedText
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import Document, read_documents
from opencompass_llada.finetune.tokenizing import tokenize_source
from opencompass_llada.finetune.tokens import TrainingTokenizer, train_tokenizer

ROWS = [{"text": "one two", "q": "how"}, {"text": "three", "q": "why not"}]


def encode(texts):
    """One token a character."""
    return [[ord(character) for character in text] for text in texts]


def tokens_of(source, folder, **changes):
    tokens = {"encode_all": encode, "end_token_id": 0, "digest": "a", **changes}
    return tokenize_source(source, SimpleNamespace(**tokens), folder)


def write(folder, rows=ROWS, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextSource(paths=(str(folder / name),))


def test_documents_follow_each_other_with_end_tokens(tmp_path):
    for folder in (tmp_path / "cache", None):
        text = tokens_of(write(tmp_path), folder)
        assert bytes(text.tokens.astype(np.uint8)) == b"one two\0three\0"
        assert text.lengths.tolist() == [7, 5]
        assert bytes(text.piece(1, 1, 6).astype(np.uint8)) == b"hree\0"


def test_prompts_come_first_and_are_counted(tmp_path):
    write(tmp_path)
    source = TextSource(paths=(str(tmp_path / "a.jsonl"),), prompt_field="q")
    tokens = TrainingTokenizer(tokenizer=tiny_tokenizer(), end_token_id=256, mask_token_id=258)
    text = tokenize_source(source, tokens, tmp_path / "cache")
    expected = ["how", "one two", "why not", "three"]
    parts = [tokens.encode(part) for part in expected]
    assert text.tokens.tolist() == [*parts[0], *parts[1], 256, *parts[2], *parts[3], 256]
    assert text.prompt_lengths.tolist() == [3, 7]


def test_tokens_are_made_once_for_the_same_text_and_tokenizer(tmp_path):
    calls = []

    def counting(texts):
        calls.append(len(texts))
        return encode(texts)

    source, cache = write(tmp_path), tmp_path / "cache"
    tokens_of(source, cache, encode_all=counting)
    again = tokens_of(source, cache, encode_all=counting)
    assert calls == [2]
    assert isinstance(again.tokens, np.memmap)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tokens_of(write(elsewhere), cache, encode_all=counting)  # the same file in another folder
    assert calls == [2]
    tokens_of(source, cache, encode_all=counting, digest="b")
    tokens_of(source, cache, encode_all=counting, end_token_id=1)
    write(tmp_path, ROWS[:1])
    tokens_of(source, cache, encode_all=counting)
    assert calls == [2, 2, 2, 1]
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_changed_data_set_folder_is_tokenised_again(tmp_path):
    import datasets

    for rows in (ROWS, ROWS[:1]):
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        text = tokens_of(TextSource(dataset=str(tmp_path / "saved")), tmp_path / "cache")
        assert len(text.ends) == len(rows)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def failing(texts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokens_of(write(tmp_path), tmp_path / "cache", encode_all=failing)
    assert list((tmp_path / "cache").iterdir()) == []


def test_parquet_datasets_and_plain_files(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "plain.txt").write_text("one\n\ntwo")
    expected = [Document(row["text"], row["q"]) for row in ROWS]
    parquet = TextSource(paths=(str(tmp_path / "a.parquet"),), prompt_field="q")
    assert list(read_documents(parquet)) == expected
    saved = TextSource(dataset=str(tmp_path / "saved"), prompt_field="q")
    assert list(read_documents(saved)) == expected
    assert list(read_documents(TextSource(dataset=str(tmp_path / "saved"), num_documents=1))) == [
        Document("one two")
    ]
    fewer = f"num_documents={len(ROWS) + 1} is more than the {len(ROWS)} documents of dataset="
    with pytest.raises(ValueError, match=f"{fewer}.* 0 for all"):
        list(read_documents(TextSource(dataset=saved.dataset, num_documents=len(ROWS) + 1)))
    plain = TextSource(paths=(str(tmp_path / "plain.txt"),))
    assert list(read_documents(plain)) == [Document("one\n\ntwo")]
    with pytest.raises(ValueError, match="prompt_field"):
        list(read_documents(TextSource(paths=parquet.paths, prompt_field="question")))


def test_the_same_seed_gives_the_same_first_batch_in_workers_or_not(tmp_path):
    first, second = (
        first_batches(small_trainer(tmp_path / str(n), phases=SHORT, num_workers=n))[0]
        for n in (0, 1)
    )
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert torch.equal(first["targets"], second["targets"])


class Uniform(torch.nn.Module):
    """An autoregressive network that knows nothing."""

    def forward(self, ids):
        return type("Output", (), {"logits": torch.zeros(*ids.shape, 400)})()


def test_perplexity_of_a_network_that_knows_nothing_is_the_vocabulary():
    chosen = {
        "text": {"generated_seed": 9, "num_documents": 1},
        "lengths": [16, 64],
        "target_tokens": 8,
        "num_texts": 3,
    }
    recipe = small_recipe(evaluation=chosen)
    tokens = np.arange(100, dtype=np.int32)
    text = TokenizedText(
        tokens=tokens, ends=np.array([100]), prompt_lengths=np.array([0], np.int32)
    )
    figures, draws = measure_perplexity(Uniform(), recipe, text, torch.device("cpu"), 8)
    assert draws == ()  # exact
    for length in (16, 64):
        assert math.isclose(figures.pop(f"perplexity@{length}"), 400, rel_tol=1e-4)
        assert figures.pop(f"perplexity_error@{length}") == 0.0
    assert not figures
    short = TokenizedText(
        tokens=tokens[:50], ends=np.array([50]), prompt_lengths=np.array([0], np.int32)
    )
    with pytest.raises(ValueError, match="ask for 64 tokens"):
        measure_perplexity(Uniform(), recipe, short, torch.device("cpu"), 8)


def test_evaluation_is_logged_and_picks_the_best(tmp_path):
    chosen = {
        "text": {"generated_seed": 9, "num_documents": 2},
        "lengths": [64, 32],  # the longest decides, wherever it stands
        "target_tokens": 16,
        "num_texts": 2,
        "draws": 4,
        "final_draws": 64,
        "retrieval_rows": 2,
    }
    trainer = small_trainer(tmp_path / "out", phases=SHORT, evaluation=chosen, probe_every=2)
    final = trainer.train()
    first, last = trainer.history
    index = CheckpointIndex.read(tmp_path / "out")
    assert index.best_step in (2, 4)
    best = {2: first, 4: last}[index.best_step]
    assert index.best_score == best["perplexity@64"]
    assert len(index.best_draws) == 2 * 4
    nats = sum(index.best_draws) / len(index.best_draws)
    assert math.isclose(math.exp(nats), index.best_score, rel_tol=1e-9)
    assert {"needlebench@128", "ruler_niah@128"} <= last.keys()
    # At the end once more with 16 times the draws: about a quarter of the error.
    assert "final_perplexity@64" not in first
    assert 0 < last["final_perplexity_error@64"] < 0.6 * last["perplexity_error@64"]
    within = 4 * math.hypot(last["final_perplexity_error@64"], last["perplexity_error@64"])
    assert abs(last["final_perplexity@64"] - last["perplexity@64"]) < within
    assert json.loads((final / "training.json").read_text())["history"][-1] == last


@pytest.mark.parametrize(("num_texts", "is_told"), [(1_000_000, True), (2, False)])
def test_fewer_places_than_texts_to_measure_are_told(tmp_path, caplog, num_texts, is_told):
    text = {"generated_seed": 9, "num_documents": 2}
    chosen = {"text": text, "lengths": [64], "target_tokens": 16, "num_texts": num_texts}
    trainer = small_trainer(tmp_path / "out", phases=SHORT, evaluation=chosen)
    places = len(trainer.data.held_out.tokens) - 64 + 1
    told = f"num_texts={num_texts}: the held-out text has {places} places"
    assert (told in caplog.text) is is_told


def test_tokenizer_splits_digits_and_encodes_anything():
    texts = [
        document.text for document in read_documents(TextSource(generated_seed=7, num_documents=2))
    ]
    tokenizer = train_tokenizer(texts, 400)
    for text in ("code 90210.", "naïve 字 \u0007", " two  spaces\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("90210").input_ids) == 5


SPECIAL = "Text of <|mdm_mask|>, <|endoftext|> and <|eot_id|> in a document. "


def test_text_of_special_tokens_is_plain_text_everywhere(tmp_path):
    """In packed text and answers, before and after a trip to another process."""
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": SPECIAL * 9, "q": SPECIAL}) + "\n")
    text = [{"paths": [str(file)], "prompt_field": "q"}]
    phases = [{**SHORT[0], "sequence_length": 1024}]
    changes = {"text": text, "strategy": "adaptive", "retrieval_share": 0.0, "phases": phases}
    trainer = small_trainer(tmp_path / "out", **changes)
    tokens, made = trainer.tokens, trainer.data._rows[1024].texts[0]
    answer = made.tokens[made.prompt_lengths[0] :].tolist()
    assert answer.count(tokens.end_token_id) == 1  # the answer's own
    assert tokens.decode(answer[:-1]) == SPECIAL * 9
    assert tokens.mask_token_id not in made.tokens  # in the prompt neither
    assert pickle.loads(pickle.dumps(tokens)).encode(SPECIAL) == tokens.encode(SPECIAL)
    plain = "Nothing special, 42."
    assert tokens.encode(plain) == tokens.tokenizer(plain, add_special_tokens=False).input_ids


def test_a_special_token_that_the_file_calls_ordinary_is_text_too(tmp_path):
    trainer = small_trainer(tmp_path / "out", phases=SHORT)
    from tokenizers import Tokenizer

    fields = json.loads(trainer.tokens.tokenizer.backend_tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["special"] = False
    trainer.tokens.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(fields))
    assert not {0, 2} & set(trainer.tokens.encode(SPECIAL))


def test_damaged_tokens_are_made_anew_and_leftovers_of_killed_processes_go(tmp_path):
    source, cache = write(tmp_path), tmp_path / "cache"
    whole = tokens_of(source, cache)
    (folder,) = cache.iterdir()
    for damage in (b"\0" * whole.tokens.nbytes, b"torn", b""):
        (folder / "tokens.bin").write_bytes(damage)
        assert tokens_of(source, cache).digest == whole.digest
    (folder / "key.json").write_text("{}")
    assert tokens_of(source, cache).digest == whole.digest
    (cache / f".x~{host_name()}~999999999~00000000.part").mkdir()
    (cache / f".x~{host_name()}~{os.getpid()}~00000000.part").mkdir()
    tokens_of(source, cache)
    (left,) = cache.glob(".*")
    assert f"~{os.getpid()}~" in left.name
