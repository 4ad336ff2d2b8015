"""Tokenising at scale: processes, interruptions, memory, and processes that wait for each other."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from opencompass_llada.files import LOCK_NAME
from opencompass_llada.finetune import encoding, token_files, tokenizing
from opencompass_llada.finetune import text as text_module
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.tokenizing import tokenize_source


def encode(texts):
    """One token a character."""
    return [[ord(character) for character in text] for text in texts]


TOKENS = SimpleNamespace(encode_all=encode, end_token_id=0, digest="a")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 200)


def write_rows(folder, count=300):
    rng = random.Random(0)
    rows = [
        {"text": "".join(rng.choices("abc \u00fc\u4e2d", k=rng.randrange(60)))}
        for _ in range(count)
    ]
    rows[-1]["text"] = str(count - 1)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextSource(paths=(str(folder / "a.jsonl"),))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_number_of_processes_gives_the_same_files(tmp_path, small_chunks, caplog):
    source = write_rows(tmp_path)
    caplog.set_level(logging.INFO)
    made = []
    for processes in (1, 2, 3):
        text = tokenize_source(source, TOKENS, tmp_path / str(processes), num_processes=processes)
        made.append(files_of(text.folder))
        assert len(text.ends) < 300  # some have no text
    assert made[0] == made[1] == made[2]
    assert made[0].keys() == {"tokens.bin", "ends.npy", "prompt_lengths.npy", "key.json"}
    assert "Tokenising in 3 processes" in caplog.text


def test_short_texts_start_no_process(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(encoding, "ProcessPoolExecutor", None)
    tokenize_source(write_rows(tmp_path), TOKENS, tmp_path / "cache", num_processes=8)


KILLED = r"""
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from opencompass_llada.finetune import encoding
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.tokenizing import tokenize_source

encoding.CHUNK_CHARACTERS = 200

def encode(texts):
    time.sleep(0.05)
    os.write(1, b"encoded\n")
    return [[ord(character) for character in text] for text in texts]

tokens = SimpleNamespace(encode_all=encode, end_token_id=0, digest="a")
source = TextSource(paths=(sys.argv[1],))
tokenize_source(source, tokens, Path(sys.argv[2]), num_processes=int(sys.argv[3]))
"""


def start(source, cache, processes, repository_root):
    command = [sys.executable, "-c", KILLED, source.paths[0], str(cache), str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(repository_root)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def documents_of(cache):
    (journal,) = cache.glob(".*.unfinished/tokens/journal.jsonl")
    return sum(json.loads(line)["documents"] for line in journal.read_text().splitlines())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_leaves_no_half_cache_and_goes_on(
    tmp_path, small_chunks, repository_root, caplog, processes
):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    run = start(source, cache, processes, repository_root)
    for _ in range(24):
        assert run.stdout.readline() == "encoded\n"
    run.kill()
    run.communicate(timeout=20)  # the workers have ended, too
    assert [path.name[-11:] for path in cache.iterdir()] == [".unfinished"]
    done = documents_of(cache)
    assert done > 0
    for name in ("tokens.bin", "ends.bin"):  # what was being written
        (file,) = cache.glob(f".*/tokens/{name}")
        with file.open("ab") as opened:
            opened.write(b"torn")
    read = []

    def counting(texts):
        read.extend(texts)
        return encode(texts)

    caplog.set_level(logging.INFO)
    tokens = SimpleNamespace(encode_all=counting, end_token_id=0, digest="a")
    again = tokenize_source(source, tokens, cache, num_processes=1)
    assert f"Going on from {done} documents" in caplog.text
    whole = tokenize_source(source, TOKENS, tmp_path / "whole", num_processes=1)
    assert len(read) == len(whole.ends) - done  # texts of the rest alone
    assert files_of(again.folder) == files_of(whole.folder)
    assert [path.name[0] == "." for path in cache.iterdir()] == [False]


@pytest.mark.parametrize("damage", ["tokens.bin", "journal.jsonl"])
def test_a_damaged_part_is_made_anew_from_there(tmp_path, small_chunks, monkeypatch, damage):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    calls = []

    def failing(texts):
        calls.append(len(texts))
        if len(calls) == 21:
            raise KeyboardInterrupt
        return encode(texts)

    tokens = SimpleNamespace(encode_all=failing, end_token_id=0, digest="a")
    with pytest.raises(KeyboardInterrupt):
        tokenize_source(source, tokens, cache, num_processes=1)
    (file,) = cache.glob(f".*/tokens/{damage}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = tokenize_source(source, TOKENS, cache, num_processes=1)
    whole = tokenize_source(source, TOKENS, tmp_path / "whole", num_processes=1)
    assert files_of(again.folder) == files_of(whole.folder)


def test_a_run_killed_while_it_finishes_encodes_nothing_again(tmp_path, small_chunks, monkeypatch):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(token_files, "settle", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tokenize_source(source, TOKENS, cache, num_processes=1)
    tokens = SimpleNamespace(encode_all=None, end_token_id=0, digest="a")
    again = tokenize_source(source, tokens, cache, num_processes=1)
    whole = tokenize_source(source, TOKENS, tmp_path / "whole", num_processes=1)
    assert files_of(again.folder) == files_of(whole.folder)


def test_a_second_process_waits_for_the_first(tmp_path, small_chunks, repository_root, caplog):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    run = start(source, cache, 1, repository_root)
    for _ in range(8):
        run.stdout.readline()
    caplog.set_level(logging.INFO)
    tokens = SimpleNamespace(encode_all=None, end_token_id=0, digest="a")
    text = tokenize_source(source, tokens, cache)
    run.communicate(timeout=20)
    assert run.returncode == 0
    assert "Waiting for the tokens that another process makes" in caplog.text
    assert len(text.tokens) == text.ends[-1]


def test_who_waits_reads_what_the_other_finishes_at_that_moment(tmp_path, monkeypatch):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    made = tokenize_source(source, TOKENS, tmp_path / "other", num_processes=1)
    cache.mkdir()
    own_open, finished = Path.open, []

    def open_late(path, *arguments, **options):
        if path.name == LOCK_NAME and not finished:
            path.parent.rmdir()  # as the other one does when its tokens are in place
            finished.append(shutil.copytree(made.folder, cache / made.folder.name))
        return own_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_late)
    monkeypatch.setattr(tokenizing, "_write", None)  # nothing is tokenised again
    text = tokenize_source(source, TOKENS, cache)
    assert finished == [text.folder]
    assert list(text.tokens) == list(made.tokens)
    assert [path.name for path in cache.iterdir()] == [text.folder.name]


def test_a_killed_worker_is_reported_and_what_it_did_stays(tmp_path, small_chunks):
    source, cache = write_rows(tmp_path), tmp_path / "cache"
    mine = os.getpid()

    def dying(texts):
        if os.getpid() != mine and "299" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(texts)

    tokens = SimpleNamespace(encode_all=dying, end_token_id=0, digest="a")
    with pytest.raises(ValueError, match="a process that tokenises was killed.*goes on"):
        tokenize_source(source, tokens, cache, num_processes=2)
    assert documents_of(cache) > 0


def test_progress_says_documents_rate_and_expected_end(tmp_path, small_chunks, monkeypatch, caplog):
    monkeypatch.setattr(tokenizing, "_LOG_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    tokenize_source(write_rows(tmp_path), TOKENS, tmp_path / "cache", num_processes=1)
    lines = [record.getMessage() for record in caplog.records]
    assert any(" MB/s, " in line and "end expected in" in line for line in lines)
    assert "documents" in lines[-1]
    assert "MB/s" in lines[-1]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch, form):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 20_000)
    monkeypatch.setattr(text_module, "_PARQUET_BYTES", 1 << 14)
    monkeypatch.setattr(token_files, "_BLOCK", 1 << 14)
    peaks = []
    for count in (1500, 6000):  # of 4,000 characters: 6 and 24 MB
        rng = random.Random(count)
        rows = [{"text": rng.randbytes(2000).hex()} for _ in range(count)]
        file = tmp_path / f"{count}.{form}"
        if form == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:  # one row group, which must not be read at once
            table = pyarrow.Table.from_pylist(rows)
            pyarrow.parquet.write_table(table, file, use_dictionary=False, data_page_size=1 << 14)
            del table
        del rows
        most = [0]

        def watching(texts, most=most):
            most[0] = max(most[0], pyarrow.total_allocated_bytes())
            return [[1] * len(text) for text in texts]

        tokens = SimpleNamespace(encode_all=watching, end_token_id=0, digest="a")
        before = pyarrow.total_allocated_bytes()
        tracemalloc.start()
        source = TextSource(paths=(str(file),))
        text = tokenize_source(source, tokens, tmp_path / "cache", num_processes=1)
        peaks.append(tracemalloc.get_traced_memory()[1] + most[0] - before)
        tracemalloc.stop()
        assert len(text.tokens) == count * 4001
    assert peaks[1] < 1.25 * peaks[0] < 10_000_000
