"""Rate and memory of tokenising: MB of text a second of CPU and of wall, by processes and format.

    python benchmarks/tokenising.py [--megabytes 24] [--processes 1 2] [--tokenizer FOLDER ...]

Makes documents of about 0.4 MB (as PG19's books) from generated text, as JSON lines and as Parquet
of a quarter and the whole of the size, and tokenises each in a process of its own, without and with
an earlier cache. ``anonymous_mb`` is the most memory of the first process that is no file, beyond
what it held before. ``bare_mb_a_cpu_second`` is the library's own rate on the same text.
Writes benchmarks/records/tokenising.json; it fails if memory grows with the text or if the tokens
differ. Other load of the machine, which the record holds, lowers rates of wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recording import ROOT, describe_run, exit_on_error, write_record

DOCUMENT_BYTES = 400_000
#: MB that the first process may hold more for four times the text.
MOST_GROWTH_MB = 16.0
TINY = "asset:tiny-llada"


def make_books(num_bytes: float) -> Iterator[str]:
    """Yield generated documents of about the length of a book."""
    from opencompass_llada.synthetic.grammar import generate_documents

    part: list[str] = []
    size = total = 0
    for document in generate_documents(5, 1_000_000):
        part.append(document["text"])
        size += len(document["text"])
        if size >= DOCUMENT_BYTES:
            yield "\n".join(part)
            total, part, size = total + size, [], 0
            if total >= num_bytes:
                return


def write_texts(folder: Path, num_bytes: float, forms: list[str]) -> dict[str, tuple[Path, Path]]:
    """Write the text in each format, a quarter of it and the whole."""
    import pyarrow
    import pyarrow.parquet

    books = [{"text": text} for text in make_books(num_bytes)]
    files: dict[str, tuple[Path, Path]] = {}
    for name in forms:
        files[name] = (folder / f"quarter.{name}", folder / f"whole.{name}")
        for file, rows in zip(files[name], (books[: len(books) // 4], books), strict=True):
            if name == "jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            else:  # one row group, which must not be read at once
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return files


def load_tokens(name: str) -> Any:
    """Return a folder's tokenizer for training; special tokens do not matter here."""
    from transformers import AutoTokenizer

    from opencompass_llada.assets import resolve_path
    from opencompass_llada.finetune.tokens import TrainingTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_path(name), trust_remote_code=False)
    return TrainingTokenizer(
        tokenizer=tokenizer, end_token_id=tokenizer.eos_token_id, mask_token_id=None
    )


class MemoryWatch:
    """Notes the most anonymous memory of this process, in MB, from now on."""

    def __init__(self) -> None:
        """Begin."""
        self.first = self.most = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._now())

    def end(self) -> float:
        """Return what was held beyond what there was at the beginning."""
        self._ended.set()
        self._thread.join()
        return round(self.most - self.first, 1)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(file: Path, tokenizer: str, num_processes: int) -> dict[str, Any]:
    """Tokenise a file in this process and its workers; return rates, memory and a digest."""
    from opencompass_llada.finetune.recipe import TextSource
    from opencompass_llada.finetune.text import read_documents
    from opencompass_llada.finetune.tokenizing import tokenize_source

    source, tokens = TextSource(paths=(str(file),)), load_tokens(tokenizer)
    few = [document.text for _, document in zip(range(8), read_documents(source), strict=False)]
    tokens.encode(few[0])  # what the first call sets up
    begun = time.process_time()
    for text in few:
        tokens._plain.encode_batch_fast([text], add_special_tokens=False)
    bare = sum(len(text.encode()) for text in few) / 1e6 / (time.process_time() - begun)
    del few
    with tempfile.TemporaryDirectory() as folder:
        watch, cpu, wall = MemoryWatch(), _cpu_seconds(), time.perf_counter()
        text = tokenize_source(source, tokens, Path(folder), num_processes=num_processes)
        wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
        held, again = watch.end(), time.perf_counter()
        tokenize_source(source, tokens, Path(folder))
        again = time.perf_counter() - again
        size = sum(len(document.text.encode()) for document in read_documents(source)) / 1e6
        return {
            "megabytes": round(size, 2),
            "tokens": len(text.tokens),
            "documents": len(text.ends),
            "cpu_seconds": round(cpu, 2),
            "wall_seconds": round(wall, 2),
            "mb_a_cpu_second": round(size / cpu, 2),
            "mb_a_wall_second": round(size / wall, 2),
            "bare_mb_a_cpu_second": round(bare, 2),
            "anonymous_mb": held,
            "seconds_from_cache": round(again, 2),
            "digest": text.digest,
        }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=24.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--forms", nargs="+", default=["jsonl", "parquet"])
    parser.add_argument(
        "--tokenizer", nargs="+", default=[TINY], help="folders with a tokenizer, or asset:NAME"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        file, tokenizer, processes = given.child
        print(json.dumps(measure(Path(file), tokenizer, int(processes))))
        return
    rows = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        for form, files in write_texts(Path(folder), given.megabytes * 1e6, given.forms).items():
            for tokenizer in given.tokenizer:
                for processes in given.processes:
                    command = [sys.executable, __file__, "--child"]
                    made = [
                        json.loads(
                            subprocess.run(
                                [*command, str(file), tokenizer, str(processes)],
                                check=True,
                                env=environment,
                                stdout=subprocess.PIPE,
                            ).stdout.splitlines()[-1]
                        )
                        for file in files
                    ]
                    what = {"form": form, "tokenizer": Path(tokenizer).name, "processes": processes}
                    growth = made[1]["anonymous_mb"] - made[0]["anonymous_mb"]
                    rows.append({**what, **made[1], "growth_mb": round(growth, 1)})
                    print(json.dumps(rows[-1]))
    record = {**describe_run(), "most_growth_mb": MOST_GROWTH_MB, "rows": rows}
    record["command"] = " ".join(
        Path(part).name if part in given.tokenizer else part for part in record["command"].split()
    )
    write_record(ROOT / "benchmarks" / "records" / "tokenising.json", record)
    for tokenizer in {row["tokenizer"] for row in rows}:
        digests = {row["digest"] for row in rows if row["tokenizer"] == tokenizer}
        if len(digests) > 1:
            raise ValueError(f"{tokenizer}: processes or formats give different tokens: {digests}")
    if (most := max(row["growth_mb"] for row in rows)) > MOST_GROWTH_MB:
        raise ValueError(f"memory grows by {most} MB with four times the text: {MOST_GROWTH_MB}")


if __name__ == "__main__":
    exit_on_error(main)
