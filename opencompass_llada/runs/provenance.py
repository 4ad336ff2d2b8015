"""What a run leaves about how its numbers came to be: hashes of contents, and provenance/.

All are the first 16 digits of a SHA-256, with a word before it where not every byte was read.

``run_TIME.json`` is written by the process that starts the tasks, when they have ended: command,
resolved config, versions, commit, time. ``MODEL.jsonl`` is written by the processes that hold the
models: a line of kind ``model`` when one is loaded, and one of kind ``dataset`` at each data set's
end; one of kind ``superseded`` takes a data set's back, whose answers were set aside.
``files.seals`` has the digest of every file of predictions, results and config, from before it came
into place. Each line begins with a digest of its own. This file knows their form; who measures what
is in `running.recording`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from opencompass_llada import __version__
from opencompass_llada.assets import resolve_path
from opencompass_llada.files import append_line, open_line, read_lines, replacing, sealed_line
from opencompass_llada.logs import get_logger
from opencompass_llada.redaction import redact
from opencompass_llada.weight_files import CheckpointError, list_weight_files

logger = get_logger(__name__)

DIGITS = 16
#: Weights up to this size are read whole; of larger ones, blocks evenly spread over each file.
WHOLE_BYTES = 2**30
_BLOCK = 2**20
_BLOCKS_A_FILE = 64
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
                    "added_tokens.json")  # fmt: skip
_TOKENIZER_CONFIG = "tokenizer_config.json"
#: What a tokenizer adds itself; counts where tokenizer_config.json says true.
_ADDED = ("add_bos_token", "add_eos_token")
#: Columns that OpenCompass adds to every data set: its abbreviation and the row's number.
_HOST_COLUMNS = ("subdivision", "idx")
#: Small files beside weights or tokenizer that change what is read, asked or answered.
_SETTINGS_FILES = ("adapter_config.json", "generation_config.json", "tokenizer_config.json",
                   "special_tokens_map.json", "added_tokens.json",
                   "chat_template.json")  # fmt: skip


def hash_text(text: str) -> str:
    """Return the hash of a text."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:DIGITS]


def hash_values(values: Any) -> str:
    """Return the hash of plain values, whatever the order of dictionary keys."""
    return hash_text(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str))


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the hash of a data set's rows, in order, without the columns that OpenCompass adds.

    Args:
        rows: One mapping a sample.
    """
    digest = hashlib.sha256()
    for row in rows:
        own = {name: value for name, value in row.items() if name not in _HOST_COLUMNS}
        line = json.dumps(own, sort_keys=True, ensure_ascii=False, default=str)
        digest.update(line.encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:DIGITS]


def hash_checkpoint(folder: Path, *, whole: bool | None = None) -> str:
    """Return the hash of a checkpoint or an adapter: its configuration and what it loads.

    The weights are those of `list_weight_files`: other files beside them change nothing.

    Weights of more than 1 GiB are hashed by size and 64 blocks of 1 MiB of each file (16 GB would
    take longer to read than a short evaluation); such a hash says ``sampled-`` before it. Two
    checkpoints that differ in a few places only could share one.

    Args:
        folder: Of a checkpoint in Hugging Face's layout.
        whole: Whether to read every byte; None decides by size.

    Returns:
        The hash; ``''`` if there are no weights, or nothing says which they are.
    """
    try:
        weights = list_weight_files(folder)
    except CheckpointError:  # an adapter, or pickled weights, which OpenCompass's own models load
        adapter = folder / "adapter_model.safetensors"
        weights = [adapter] if adapter.is_file() else sorted(folder.glob("*.bin"))
    if not weights:
        return ""
    if whole is None:
        whole = sum(path.stat().st_size for path in weights) <= WHOLE_BYTES
    digest = hashlib.sha256()
    for path in [folder / "config.json", folder / "adapter_config.json", *weights]:
        if path.is_file():
            digest.update(path.name.encode())
            _add_file(digest, path, whole or path.suffix == ".json")
    return ("" if whole else "sampled-") + digest.hexdigest()[:DIGITS]


def _add_file(digest: Any, path: Path, whole: bool) -> None:
    size = path.stat().st_size
    num_blocks = -(-size // _BLOCK)
    step = 1 if whole else max(1, num_blocks // _BLOCKS_A_FILE)
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for block in range(0, num_blocks, step):
            file.seek(block * _BLOCK)
            digest.update(file.read(_BLOCK))


def hash_tokenizer(folder: Path) -> str:
    """Return the hash of what a tokenizer makes of text, '' if the folder holds none.

    Of tokenizer.json that is its content, however it is formatted, without truncation and padding;
    of older formats every byte of the files, and the tokens that tokenizer_config.json adds.

    Args:
        folder: With tokenizer.json, or the files of older formats.

    Raises:
        ValueError: If a JSON file cannot be read.
    """
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        return ""
    config = _read_object(folder / _TOKENIZER_CONFIG)
    content: Any = {name: True for name in _ADDED if config.get(name)}
    if present[0].name == "tokenizer.json":
        whole = _read_object(present[0])
        content |= {name: whole[name] for name in whole if name not in ("truncation", "padding")}
    else:
        content |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
        content["added"] = config.get("added_tokens_decoder")
    return hash_values(content)


def find_tokenizer(path: str, fetch: bool = False) -> tuple[str, int] | None:
    """Return hash and vocabulary size of a tokenizer, None where its files are not at hand.

    Args:
        path: A folder, a hub id or ``asset:NAME``; also ``gpt-4``, which has no files.
        fetch: Download the files of a hub id that are not in the local cache.

    Returns:
        The hash, and the size without added tokens: 0 where the files do not simply say it.
    """
    try:
        folder = Path(resolve_path(path)).expanduser()
        if not folder.is_dir():
            if path.count("/") != 1 or path.startswith((".", "/", "~")):
                return None
            from huggingface_hub import snapshot_download

            files = [*_TOKENIZER_FILES, _TOKENIZER_CONFIG]
            folder = Path(snapshot_download(path, allow_patterns=files, local_files_only=not fetch))
        times = [path.stat().st_mtime_ns for path in folder.glob("*.json")]
        return _read_tokenizer(folder, tuple(times))
    except Exception as error:  # the hub's client has many kinds; who loads it says it in its turn
        logger.info("No hash of the tokenizer %s: %s", path, error)
        return None


@lru_cache(maxsize=64)
def _read_tokenizer(folder: Path, _times: tuple[int, ...]) -> tuple[str, int] | None:
    content = hash_tokenizer(folder)
    words = _read_object(folder / "tokenizer.json").get("model", {}).get("vocab")
    return (content, len(words or _read_object(folder / "vocab.json"))) if content else None


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); copy the tokenizer again."
        ) from error
    return content if isinstance(content, dict) else {}


def hash_settings(folder: Path) -> str:
    """Return the hash of the small files that decide an answer; ``''`` if there are none.

    Args:
        folder: Of a checkpoint, a tokenizer or an adapter. Its chat templates and the Python files
            of checkpoints that bring code of their own count, too.
    """
    named = [folder / name for name in _SETTINGS_FILES]
    present = [path for path in named if path.is_file()]
    present += sorted([*folder.glob("*.jinja"), *folder.glob("*.py")])
    if not present:
        return ""
    digest = hashlib.sha256()
    for path in present:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]


FOLDER = "provenance"
SEALS = "files.seals"
PACKAGES = ("opencompass-llada", "opencompass", "torch", "transformers", "tokenizers",
            "safetensors", "datasets", "numpy", "flash-attn", "peft")  # fmt: skip

#: The package itself first, then the others whose versions change answers.
DECIDING = ("opencompass-llada", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """All that a run's folder records."""

    runs: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Contents of run_TIME.json, oldest first."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """By abbreviation: what its newest process said of the model."""
    datasets: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """By abbreviations of model and data set: the newest record. A shard has its own."""
    notes: tuple[str, ...] = ()
    """What is wrong with the files, if anything."""


def add_record(run_path: Path, model: str, record: Mapping[str, Any]) -> None:
    """Append a line to a model's file.

    Args:
        run_path: The run's folder.
        model: The model's abbreviation.
        record: Plain values, with ``kind``.
    """
    append_line(run_path / FOLDER / f"{model}.jsonl", sealed_line(record))


def seal_file(path: Path, content: Path, **facts: Any) -> None:
    """Record what a file of a run will hold, before it comes into place.

    Args:
        path: Where it will be, in a folder of the run: ``predictions/MODEL/NAME.json``.
        content: Where it is now.
        facts: What else is recorded of it.
    """
    depth = 1 if path.parent.name in ("configs", FOLDER) else 2
    run_path = path.parents[depth]
    record = {"file": path.relative_to(run_path).as_posix(), "sha256": hash_file(content), **facts}
    append_line(run_path / FOLDER / SEALS, sealed_line(record))


def read_seals(run_path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the newest record of each sealed file, by its path in the run's folder."""
    path = run_path / FOLDER / SEALS
    if not path.is_file():
        return {}
    stamp = path.stat()
    return _read_seals(path, stamp.st_mtime_ns, stamp.st_size)


def seal_fault(path: Path, run_path: Path) -> str:
    """Say if a file is not what the run wrote; '' if it is, or if nothing is recorded of it.

    Args:
        path: A file in the run's folder.
        run_path: The folder.
    """
    seal = read_seals(run_path).get(path.relative_to(run_path).as_posix())
    if not path.is_file():
        return "is no file"
    if seal is None or seal.get("sha256") == hash_file(path):
        return ""
    return "is not as the run wrote it (its digest is another): torn, changed or of another run"


@lru_cache(maxsize=64)
def _read_seals(path: Path, changed: int, size: int) -> Mapping[str, Mapping[str, Any]]:
    records = (open_line(line) for _, line in read_lines(path))
    return {str(record["file"]): record for record in records if record and "file" in record}


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    stamp = path.stat()
    return _hash_file(path, stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)


@lru_cache(maxsize=65536)
def _hash_file(path: Path, changed: int, size: int, number: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def record_run(run_path: Path) -> Path | None:
    """Write what the process that starts the tasks knows, once they have ended.

    A second call for the same config replaces the first one's file.

    Args:
        run_path: The run's folder.

    Returns:
        The file; None where OpenCompass dumped no config.
    """
    configs = sorted((run_path / "configs").glob("*.py"))
    if not configs:
        return None
    text = configs[-1].read_text(encoding="utf-8", errors="replace")
    started = datetime.fromtimestamp(configs[-1].stat().st_mtime, timezone.utc)
    finished = datetime.now(timezone.utc)
    record = {
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "wall_seconds": round((finished - started).total_seconds(), 1),
        **describe_environment(),
        "config_file": configs[-1].name,
        "config_hash": hash_text(text),
        "config": redact(text),
    }
    path = run_path / FOLDER / f"run_{configs[-1].stem}.json"
    content = json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, lambda temporary: seal_file(path, temporary)) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="replace")
    return path


def read_provenance(run_path: Path) -> Provenance:
    """Read all records of a run; a run without any has empty ones.

    Args:
        run_path: The run's folder.
    """
    folder, notes = run_path / FOLDER, []
    runs: list[Mapping[str, Any]] = []
    for path in sorted(folder.glob("run_*.json")):
        if fault := seal_fault(path, run_path):
            notes.append(f"{path.name} {fault}; it is left out")
            continue
        try:
            content = json.loads(path.read_bytes().decode("utf-8"))
        except (OSError, ValueError) as error:
            notes.append(f"{path.name} is not valid JSON ({error}); it is left out")
            continue
        if isinstance(content, dict):
            runs.append(content)
        else:
            notes.append(f"{path.name} is no record of a run; it is left out")
    models: dict[str, Mapping[str, Any]] = {}
    datasets: dict[tuple[str, str], Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, record in _read_records(path, notes):
            try:
                name = str(record["model"])
                if record["kind"] == "dataset":
                    datasets[name, str(record["dataset"])] = record
                elif record["kind"] == "superseded":
                    datasets.pop((name, str(record["dataset"])), None)
                else:
                    models[name] = record
            except KeyError:
                notes.append(f"{path.name}, line {number} is no record; it is left out")
    return Provenance(runs=tuple(runs), models=models, datasets=datasets, notes=tuple(notes))


def last_time(times: Iterable[Any]) -> str:
    """Return the last of some recorded times, '' where none is one.

    Args:
        times: ISO 8601, or OpenCompass's stamps (``20260131_235959``), which are local.

    Returns:
        ISO 8601 in UTC, to be compared as text.
    """
    found = []
    for value in times:
        text = str(value or "")
        try:
            stamp = re.match(r"\d{8}_\d{6}", text)
            moment = (
                datetime.strptime(stamp[0], "%Y%m%d_%H%M%S")
                if stamp
                else datetime.fromisoformat(text.replace("Z", "+00:00"))
            )
            found.append(moment.astimezone(timezone.utc).isoformat(timespec="seconds"))
        except (ValueError, OverflowError, OSError):
            continue
    return max(found, default="")


def describe_versions(records: Mapping[str, Provenance]) -> list[str]:
    """Say of the packages that decide numbers where runs, or models of one, had different ones.

    Args:
        records: By run.
    """
    notes = []
    for package in DECIDING:
        runs: dict[str, set[str]] = defaultdict(set)
        for run, known in records.items():
            for record in (*known.runs, *known.models.values()):
                version = (record.get("packages") or {}).get(package)
                commit = record.get("git_commit") if package == DECIDING[0] else None
                if version:
                    runs[version + (f" at {commit[:8]}" if commit else "")].add(run)
        if len(runs) > 1:
            made = [f"{version} ({', '.join(sorted(runs[version]))})" for version in sorted(runs)]
            notes.append(f"numbers were made by different versions of {package}: {', '.join(made)}")
    return notes


def _read_records(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a file's records with their lines' numbers; notes say which lines are left out."""
    try:
        lines = list(read_lines(path))
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return
    # Versions before 0.4 wrote no digests: a file has them in every line or in none.
    sealed = any(line.startswith(b'{"digest": ') for _, line in lines)
    for number, line in lines:
        record = open_line(line, must_be_sealed=sealed)
        if record is None:
            notes.append(f"{path.name}, line {number} is torn or damaged; it is left out")
        else:
            yield number, record


def describe_environment() -> dict[str, Any]:
    """Return versions, machine and commit of this process; imports nothing heavy."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["opencompass-llada"] = (
        __version__  # a checkout's metadata are of when it was installed
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cores": os.cpu_count(),
        "packages": versions,
        "git_commit": find_commit(),
        "command": redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def find_commit() -> str | None:
    """Return the commit of the checkout that this package is run from, ``+changes`` if edited.

    Returns:
        None outside a git checkout, or where git is missing.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The commit is not recorded: git said %s", error)
        return None
    return commit + ("+changes" if changed else "")


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout.strip()
