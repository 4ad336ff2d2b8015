"""Makes what OpenCompass writes whole or absent, and a resumed run find only what is whole.

OpenCompass writes in place, reads unfinished answers all or none, and never looks at what a killed
run has left. Inside `whole_files` its modules write and read through this one; `heal` removes from
a run's folder what no complete write made.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from opencompass_llada import files
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.run_folder import read_run_config

logger = logging.getLogger(__name__)

_HANDLERS = "opencompass.openicl.icl_inferencer.icl_base_inferencer"
#: OpenCompass's modules that write files of a run with ``with open(...)``.
WRITERS = (
    "mmengine.config.config",  # configs/*.py, tmp/*_params.py
    "mmengine.fileio.backends.local_backend",  # results, .cache
    _HANDLERS,  # predictions
    "opencompass.summarizers.default",
)
#: A config as OpenCompass names it at a run's start: time and process.
_DUMPED = re.compile(r"\d{8}_\d{6}_\d+\.py")
_OWNER = "# Written for a task by "


@contextmanager
def whole_files() -> Iterator[None]:
    """Let OpenCompass write whole files or none, and seal them; may be entered inside itself."""
    handlers = importlib.import_module(_HANDLERS)
    with ExitStack() as stack:
        for name in WRITERS:
            module = importlib.import_module(name)
            stack.enter_context(mock.patch.object(module, "open", _open, create=True))
        stack.enter_context(mock.patch.object(handlers, "os", _os_of_inferencers()))
        for name in ("GenInferencerOutputHandler", "ChatOutputHandler"):
            handler = getattr(handlers, name)
            stack.enter_context(mock.patch.object(handler, "write_to_jsonl", _append_answers))
            stack.enter_context(mock.patch.object(handler, "restore_from_jsonl", _restore_answers))
        yield


def _os_of_inferencers() -> SimpleNamespace:
    """Return the module ``os`` without the making of a folder that no answer is written to.

    An inferencer makes ``icl_inference_output`` in the current folder, which may be read-only, and
    is told another one later.
    """

    def makedirs(name: Any, *arguments: Any, **options: Any) -> None:
        if name != "./icl_inference_output":
            os.makedirs(name, *arguments, **options)

    return SimpleNamespace(**{**vars(os), "makedirs": makedirs})


@contextmanager
def _open_whole(path: Path, mode: str, *args: Any, **options: Any) -> Iterator[IO[Any]]:
    """Open a file that appears when its block has ended well."""
    with (
        files.replacing(path, lambda temporary: _seal(path, temporary)) as temporary,
        temporary.open(mode, *args, **options) as file,
    ):
        if path.name.endswith("_params.py"):
            file.write(_OWNER + json.dumps(files.describe_owner()) + "\n")
        yield file


def _open(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    """Stand in for `open`, with `_open_whole` for files that are written."""
    is_path = isinstance(file, str | os.PathLike)
    if "w" not in mode or not is_path or (os.path.exists(file) and not os.path.isfile(file)):
        return open(file, mode, *args, **options)
    return _open_whole(Path(file), mode, *args, **options)


def _seal(path: Path, temporary: Path) -> None:
    """Seal a run's config, predictions, or a result with the predictions that it was made of."""
    stage = path.parts[-3] if len(path.parts) > 2 and path.suffix == ".json" else ""
    is_config = path.parent.name == "configs" and _DUMPED.fullmatch(path.name)
    if stage == "predictions" or is_config:
        recorded.seal_file(path, temporary)
    elif stage == "results":
        made_of = recorded.describe_predictions(path.parents[2], path.parent.name, path.stem)
        recorded.seal_file(path, temporary, predictions=made_of)


def _append_answers(handler: Any, save_dir: str, filename: str) -> None:
    """Stand in for ``write_to_jsonl``: a sealed line for each answer."""
    for index, result in handler.results_dict.items():
        if index not in handler.dumped_indices:
            line = files.sealed_line({"idx": index, **result})
            files.append_line(Path(save_dir) / filename, line)
            handler.dumped_indices.add(index)


def _restore_answers(handler: Any, save_dir: str, filename: str) -> Any:
    """Stand in for ``restore_from_jsonl``: all answers before the first that is not whole.

    OpenCompass goes on at the number of answers that it is given; what follows is cut off.
    """
    path = Path(save_dir) / filename
    if not path.is_file():
        return handler.results_dict
    answers: dict[str, Any] = {}
    whole: list[bytes] = []
    lines = list(files.read_lines(path))
    for _, line in lines:
        answer = files.open_line(line)
        if answer is None or answer.pop("idx", None) != str(len(answers)):
            logger.warning(
                "%s: answer %d is torn or damaged; it and those after it (%d) are made again.",
                path, len(answers), len(lines) - len(answers),
            )  # fmt: skip
            files.write_text(path, b"".join(whole).decode("utf-8"))
            break
        answers[str(len(answers))] = answer
        whole.append(line + b"\n")
    handler.results_dict = answers
    handler.dumped_indices.update(answers)
    return answers


def heal(
    run_path: Path,
    makes_predictions: bool,
    own_config: str = "",
    owns: Callable[[str, str], bool] | None = None,
) -> list[str]:
    """Remove from a locked run's folder what is torn or damaged, and say what.

    Predictions are removed only if this run makes them; ``own_config``, its own dump, never. With
    ``owns``, which says so of a model's name and a file's, others are at work in the folder: only
    this process's answers are looked at.
    """
    said = [f"{path.name}: left half-written by a dead process" for path in
            files.remove_left_overs(run_path)]  # fmt: skip
    for path in sorted((run_path / "configs").glob("*.py")) if owns is None else ():
        try:
            if path.name != own_config:
                read_run_config(path)
        except ValueError as error:
            said.append(str(error))
            files.remove(path)
    predictions, results = run_path / "predictions", run_path / "results"
    for path in sorted(predictions.glob("*/*.json")) if makes_predictions else ():
        if owns is not None and not owns(path.parent.name, path.stem):
            continue
        _, fault = recorded.read_answers(path)
        if not fault:
            # The answers moved to the final file; the kill came before this one was removed.
            files.remove(path.with_name(f"tmp_{path.stem}.jsonl"))
            continue
        said.append(f"predictions/{path.parent.name}/{path.name} {fault}")
        for result in (results / path.parent.name).glob("*.json"):
            if f"{path.stem}_".startswith(f"{result.stem}_"):
                files.remove(result)  # first, so that it never stands beside other answers
        files.remove(path)
    for path in sorted(predictions.glob("*/tmp_*.jsonl.bak")):
        files.remove(path)
    for path in sorted(results.glob("*/*.json")) if owns is None else ():
        if fault := recorded.read_result(path)[1]:
            said.append(f"results/{path.parent.name}/{path.name} {fault}")
            files.remove(path)
    for line in said:
        logger.warning("Made again or removed, %s", line)
    return said


def clear_working_folder(folder: Path, with_own: bool = False) -> None:
    """Remove what dead runs, or this one, left in ``tmp/`` and ``.cache/`` of a folder."""
    for path in sorted((folder / "tmp").glob("*_params.py")):
        try:
            line = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        except OSError:
            continue
        owner = files.read_owner(line.removeprefix(_OWNER))
        if owner is None or owner["host"] != files.host_name():
            continue
        is_own = with_own and owner["pid"] == os.getpid()
        if is_own or not files.process_exists(owner["pid"], owner["since"]):
            files.remove(path)
    for name in ("tmp", ".cache"):
        files.remove_left_overs(folder / name, recursive=False)
    sizes = folder / ".cache" / "dataset_size.json"
    try:
        if sizes.is_file() and not isinstance(json.loads(sizes.read_bytes()), dict):
            files.remove(sizes)
    except ValueError:
        files.remove(sizes)
