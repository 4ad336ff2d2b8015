"""Texts that perplexity is measured on, and the windows of them that are scored."""

import json
import signal

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opencompass_llada.benchmarks.perplexity.samples import (
    PerplexityDataset,
    WindowOptions,
    cut_windows,
    read_texts,
)
from opencompass_llada.options import build
from opencompass_llada.prompting.encode import count_bytes


def texts(**options):
    return read_texts(PerplexityDataset.check_options(**options))


def test_texts_of_every_kind(tmp_path):
    (tmp_path / "a.txt").write_text("alpha " * 20)
    (tmp_path / "b.txt").write_text("beta")
    rows = [{"body": "short"}, {"body": "x" * 50}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert texts(path=str(tmp_path / "a.txt"))[0]["text"].startswith("alpha alpha")
    assert [row["name"] for row in texts(path=str(tmp_path), num_texts=2)] == ["a.txt", "b.txt"]
    found = texts(path=str(tmp_path / "t.jsonl"), text_field="body", min_characters=20)
    assert found == [{"text": "x" * 50, "name": "t.jsonl 1"}]
    made = texts(path="generated", num_texts=2, min_characters=9000)
    assert all(len(row["text"]) >= 9000 for row in made)
    assert made[0]["text"][:500] != made[1]["text"][:500]
    for number, longer in enumerate(texts(path="generated", num_texts=2, min_characters=30_000)):
        assert longer["text"].startswith(made[number]["text"])
    made = texts(path="generated", min_characters=900, extended_at="start")
    longer = texts(path="generated", num_texts=3, min_characters=30_000, extended_at="start")
    assert longer[0]["text"].endswith(made[0]["text"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere.txt"}, "no file or folder"),
        ({"path": "generated", "num_text": 1}, "Did you mean 'num_texts'"),
        ({"path": "FOLDER/t.jsonl"}, "text_field='text' is no field"),
        ({"path": "FOLDER/t.jsonl", "text_field": "body", "num_texts": 3}, "holds 2 texts"),
        ({"path": "hub:nobody/nothing"}, "hf download nobody/nothing"),
        ({"num_texts": 2}, "needs path"),
        ({"path": "generated", "extended_at": "ende"}, "Did you mean 'end'"),
        ({"path": "FOLDER/n.jsonl"}, r"n\.jsonl, line 1: text=None must be a text"),
        ({"path": "FOLDER/n.jsonl", "text_field": "size"}, r"line 1: size=4 must be a text"),
    ],
)
def test_missing_texts_are_errors_that_say_what_to_do(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", fail_offline)
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    (tmp_path / "n.jsonl").write_text('{"text": null, "size": 4}\n')
    if "path" in options:
        options = {**options, "path": options["path"].replace("FOLDER", str(tmp_path))}
    with pytest.raises(ValueError, match=message):
        texts(**options)


def fail_offline(*args, **keywords):
    raise ConnectionError("no network")


def test_a_hub_data_set_is_read_without_its_code(monkeypatch):
    seen = {}

    def load_dataset(name, config, **keywords):
        seen.update(name=name, config=config, **keywords)
        return [{"text": "row"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert texts(path="hub:a/b", split="validation") == [{"text": "row", "name": "a/b 0"}]
    assert seen.pop("trust_remote_code") is False
    assert seen == {"name": "a/b", "config": None, "split": "validation"}


def test_a_data_set_folder_is_read_by_the_datasets_package(tmp_path):
    """The hub cannot be reached from tests: this is the same call, on a folder of its layout."""
    folder = tmp_path / "corpus"
    (folder / "data").mkdir(parents=True)
    for split, size in (("test", 3), ("train", 1)):
        rows = [{"body": f"{split} {number} " + "x" * 30 * number} for number in range(size)]
        Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    found = texts(path=f"hub:{folder}", text_field="body", min_characters=30, num_texts=2)
    assert [row["text"][:6] for row in found] == ["test 1", "test 2"]
    assert texts(path=f"hub:{folder}", text_field="body", split="train")[0]["text"] == "train 0 "
    with pytest.raises(ValueError, match="has body; set"):
        texts(path=f"hub:{folder}")
    with pytest.raises(ValueError, match="split='valid'"):
        texts(path=f"hub:{folder}", text_field="body", split="valid")


def test_a_data_sets_loading_script_is_not_run(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="could not be loaded"):
        texts(path=f"hub:{folder}")
    assert not (tmp_path / "ran").exists()
    assert signal.alarm(0) == 0, "no alarm may be left behind"


def test_a_torn_line_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw')
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2: not valid JSON.*half-written"):
        texts(path=str(path), num_texts=2)


def test_windows_as_in_the_docstring():
    ids = list(range(8))

    def cut(**options):
        return list(cut_windows(ids, build(WindowOptions, options, "window")))

    assert cut(length=4, target_tokens=2) == [([4, 5], [6, 7])]
    assert cut(length=8, target_tokens=2) == [([0, 1, 2, 3, 4, 5], [6, 7])]
    assert cut(length=4, target="segment", previous_length=2) == [([0, 1], [2, 3])]
    assert cut(length=4, target="whole") == [([], [0, 1, 2, 3])]
    two = {"length": 4, "windows_per_text": 2}
    assert cut(target="whole", **two) == [([], [0, 1, 2, 3]), ([], [4, 5, 6, 7])]
    assert cut(target_tokens=2, **two) == [([4, 5], [6, 7]), ([2, 3], [4, 5])]
    with pytest.raises(ValueError, match="8 tokens, and 3 windows of 4 tokens need 12"):
        cut(length=4, target="whole", windows_per_text=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 4, "target": "lst"}, "Did you mean 'last'"),
        ({"lenght": 3}, "Did you mean 'length'"),
        ({"length": 0, "target_tokens": 2}, "length=0 must be at least 1"),
        ({"length": 4, "target": "segment", "previous_length": 2, "windows_per_text": 2}, "TEXTS"),
        ({"length": 4, "target_tokens": 5}, "from 1 to length=4"),
        ({"length": 4}, "target_tokens=None"),
        ({"length": 4, "target": "whole", "target_tokens": 2}, "no effect"),
        ({"length": 4, "target": "segment", "previous_length": 4}, "below length=4"),
        ({"target": "whole"}, "length"),
    ],
)
def test_windows_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(WindowOptions, options, "window")


TEXT = "naïve cafés, 困惑度 über 字节 and 🙂 words"


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def byte_fallback():
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [*"▁,adefnorsuvïéüw"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def word_piece():
    words = {word: number for number, word in enumerate(["[UNK]", "naïve", "caf", "##és", "words"])}
    tokenizer = Tokenizer(models.WordPiece(vocab=words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


@pytest.mark.parametrize(
    ("make", "text"),
    [(byte_level, TEXT), (byte_fallback, TEXT), (word_piece, "naïve cafés words")],
)
def test_the_bytes_of_tokens_add_up_to_the_texts_wherever_it_is_cut(make, text):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make())
    ids = tokenizer(text)["input_ids"]
    size = len(text.encode())
    assert count_bytes(tokenizer, ids) == size
    for border in range(len(ids) + 1):
        first = count_bytes(tokenizer, ids[:border])
        rest = count_bytes(tokenizer, ids[border:], ids[:border])
        assert first + rest == size
        assert first >= len(tokenizer.decode(ids[:border]).rstrip("\ufffd").encode())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|é|>"]})
    assert count_bytes(tokenizer, tokenizer("<|é|>")["input_ids"]) == 6
