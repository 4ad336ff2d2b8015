"""Damages of a run's folder and of a checkpoint's, and what the package must make of each.

`damage_run` enumerates single damages of a finished run: any may cost a number, none may give
another one without a word. For tests and benchmarks/survival.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from work_dirs import make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.files import sealed_line
from opencompass_llada.runs.recorded_files import describe_predictions, seal_file

Damage = Callable[[Path], None]


def make_sealed_run(folder: Path) -> Path:
    """Write a finished run of two models and sixteen cells, sealed as a real one is."""
    models = [make_model("first"), make_model("second")]
    cells = [niah_cell(n, depth, 3) for n in (1000, 2000) for depth in (0, 50, 100)]
    cells += [ruler_cell("vt", n, 3) for n in (1000, 2000)]
    write_run(folder, models, cells, characters_a_token=0.5)
    (config,) = (folder / "configs").glob("*.py")
    dumped = config.with_name("20260101_000000_7.py")
    config.rename(dumped)
    seal_file(dumped, dumped)
    for path in sorted(folder.glob("predictions/*/*.json")):
        seal_file(path, path)
    for path in sorted(folder.glob("results/*/*.json")):
        made_of = describe_predictions(folder, path.parent.name, path.stem)
        seal_file(path, path, predictions=made_of)
    for path in sorted((folder / "provenance").glob("*.jsonl")):
        lines = [sealed_line(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(line + "\n" for line in lines))
    record = folder / "provenance" / "run_20260101_000000_7.json"
    record.write_text(json.dumps({"started": "2026-01-01T00:00:00+00:00", "packages": {}}))
    seal_file(record, record)
    return folder


def damage_run(folder: Path) -> Iterator[tuple[str, Damage]]:
    """Yield name and deed of single damages of a run; the deed takes the folder of a copy."""
    kinds = {
        "predictions": "predictions/*/*.json",
        "results": "results/*/*.json",
        "config": "configs/*.py",
        "records": "provenance/*.jsonl",
        "run record": "provenance/run_*.json",
        "seals": "provenance/files.seals",
    }
    for kind, pattern in kinds.items():
        files = sorted(path.relative_to(folder) for path in folder.glob(pattern))
        chosen = files if len(files) < 3 else [files[0], files[len(files) // 2], files[-1]]
        for place, path in enumerate(chosen):
            for name, change in CHANGES.items():
                yield f"{kind} {place}: {name}", _in_file(path, change, f"{kind} {place} {name}")
            yield f"{kind} {place}: gone", lambda root, path=path: (root / path).unlink()
            yield f"{kind} {place}: a folder", lambda root, path=path: _make_folder(root / path)
        for first, second in zip(files, files[1:3], strict=False):
            yield (
                f"{kind}: {first.name} and {second.parent.name}/{second.name} swapped",
                lambda root, first=first, second=second: _swap(root / first, root / second),
            )
        if files and files[0].parts[0] in ("predictions", "results"):
            yield f"{kind}: the other model's", lambda root, path=files[0]: _take_other(root, path)
            yield (
                f"{kind}: all of one model gone",
                lambda root, path=files[0]: shutil.rmtree((root / path).parent),
            )
        if kind == "results":
            for name, edit in EDITS.items():
                yield f"{kind}: {name}", lambda root, p=files[0], edit=edit: _edit(root / p, edit)
        if kind == "predictions":
            for name, edit in ANSWER_EDITS.items():
                yield f"{kind}: {name}", lambda root, p=files[0], edit=edit: _edit(root / p, edit)


def _flip_digit(content: bytes, draw: random.Random) -> bytes:
    places = [match.start() for match in re.finditer(rb"[0-9]", content)]
    place = draw.choice(places)
    digit = draw.choice([d for d in b"0123456789" if d != content[place]])
    return content[:place] + bytes([digit]) + content[place + 1 :]


def _flip_bit(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _zero_block(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) // 2)
    return content[:place] + bytes(min(64, len(content) - place)) + content[place + 64 :]


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a digit": _flip_digit,
    "another digit": _flip_digit,
    "a bit": _flip_bit,
    "another bit": _flip_bit,
    "a block of zeros": _zero_block,
    "empty": lambda content, draw: b"",
    "half": lambda content, draw: content[: len(content) // 2],
    "all but a byte": lambda content, draw: content[:-2],
    "twice": lambda content, draw: content + content,
    "a bad byte": lambda content, draw: content[:-9] + b"\xff" + content[-9:],
    "no JSON": lambda content, draw: b"None\n",
    "a list": lambda content, draw: b"[1, 2]\n",
    "a line break in front": lambda content, draw: b"\n" + content,
}  # fmt: skip
EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "score 50": lambda content: content.update(score=50.0),
    "accuracy 900": lambda content: content.update(accuracy=900),
    "accuracy of 400 digits": lambda content: content.update(accuracy=10**400),
    "score NaN": lambda content: content.update(score=float("nan")),
    "score true": lambda content: content.update(score=True),
    "score text": lambda content: content.update(score="87.5"),
    "no samples": lambda content: content.update(num_samples=0),
    "samples as text": lambda content: content.update(num_samples="three"),
    "details of numbers": lambda content: content.update(details=[1, 2, 3]),
    "details as text": lambda content: content.update(details="none"),
    "an error": lambda content: content.update(error="the evaluator says so"),
    "no score": lambda content: [content.pop("score"), content.pop("accuracy", None)],
}
ANSWER_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a sample less": lambda content: content.pop(max(content)),
    "the first sample gone": lambda content: content.pop("0"),
    "an answer changed": lambda content: content["0"].update(prediction="something else"),
    "two answers swapped": lambda content: content.update({"0": content["1"], "1": content["0"]}),
    "an answer twice": lambda content: content.update({"3": content["0"]}),
    "samples that are lists": lambda content: content.update({"0": []}),
    "other keys": lambda content: content.update({"x": content.pop("0")}),
    "a prompt of numbers": lambda content: content["0"].update(origin_prompt=5),
}


def _in_file(path: Path, change: Callable[[bytes, random.Random], bytes], seed: str) -> Damage:
    def damage(root: Path) -> None:
        file = root / path
        file.write_bytes(change(file.read_bytes(), random.Random(seed)))

    return damage


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _swap(first: Path, second: Path) -> None:
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def _take_other(root: Path, path: Path) -> None:
    models = sorted(folder.name for folder in (root / path.parts[0]).iterdir())
    other = next(name for name in models if name != path.parts[1])
    shutil.copy(root / path.parts[0] / other / path.name, root / path)


def _edit(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def read_numbers(folder: Path) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Return every number that a report of a run shows, by cell; others are absent."""
    from opencompass_llada.report.collect import collect

    collection = collect([folder])
    shown: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for row in collection.rows:
        if row.score is not None:
            described = (row.entry, row.length, row.depth, row.task, row.generation_length)
            key = ("score", row.model, row.dataset, row.metric)
            shown[key] = (row.score, row.n, row.standard_error, *described)
    for records in collection.provenance.values():
        for (model, dataset), record in records.datasets.items():
            counted = tuple(record.get(name) for name in ("num_forward_passes", "seconds"))
            shown["cost", model, dataset] = counted
    return shown


def run_report(folder: Path, output: Path) -> tuple[int, str]:
    """Call ``opencompass-llada report``; return its status and what it said of faults."""
    from opencompass_llada.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(["report", str(folder), "-o", str(output)])
    return status, said.getvalue()


def judge(
    folder: Path, right: dict[tuple[str, ...], tuple[Any, ...]]
) -> tuple[str, list[tuple[str, ...]]]:
    """Say what a report makes of a damaged folder.

    Args:
        folder: The damaged run.
        right: Its numbers before, from `read_numbers`.

    Returns:
        ``right`` (all numbers), ``missing`` (some, and no other ones), ``refused`` (a ValueError)
        or ``wrong``; and the cells that are missing or wrong.
    """
    try:
        shown = read_numbers(folder)
    except ValueError:
        return "refused", sorted(right)
    wrong = [key for key, value in shown.items() if right.get(key) != value]
    if wrong:
        return "wrong", sorted(wrong)
    missing = sorted(set(right) - set(shown))
    return ("missing" if missing else "right"), missing
