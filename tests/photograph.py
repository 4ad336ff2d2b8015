"""Photographs what the package does, so that a refactoring can be compared with what was before.

    python tests/photograph.py OUT [--run WORK_DIR] [PART ...]
    diff -r BEFORE AFTER

Writes text files into OUT, a folder a part: ``configs`` (every config as it is dumped), ``sampler``
(ids over a grid of options), ``training`` (losses of 20 steps), ``commands`` (output and exit
status), ``report`` (everything that is written of a finished run, given by --run). Class names
stand without their modules, and times, versions and paths are left out, so that code may move.
It compares nothing itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: What differs from run to run or from machine to machine, and what stands in its place.
VOLATILE = (
    (re.compile(r"\b(opencompass_llada|opencompass|mmengine|configs)(\.\w+)+\.(\w+)"), r"\3"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\d{8}_\d{6}"), "TIME"),
    (re.compile(r"\b[0-9a-f]{40}(\+changes)?\b"), "COMMIT"),
    (re.compile(re.escape(str(ROOT))), "ROOT"),
    (re.compile(re.escape(str((ROOT.parent / "shared").resolve()))), "SHARED"),
    (re.compile(r"/tmp/[\w./-]+"), "TEMPORARY"),
    (re.compile(r"\b\d+(\.\d+)? (s|seconds|GB free)\b"), r"N \2"),
)


def steady(text: str) -> str:
    """Return a text without what changes by itself."""
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def plain(value: Any) -> Any:
    """Return a config's value with classes by name alone, as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, type) or callable(value):
        return getattr(value, "__qualname__", str(value))
    return steady(value) if isinstance(value, str) else value


def photograph_configs() -> dict[str, str]:
    """Dump every config of the checkout, from its own defaults."""
    from mmengine.config import Config

    for name in [name for name in os.environ if name.startswith("LLADA_")]:
        del os.environ[name]
    shared = ROOT.parent / "shared"
    if shared.is_dir():  # real data, as the tests use it
        os.environ.setdefault("COMPASS_DATA_CACHE", str(shared.resolve()))
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(shared.resolve() / "data/tiktoken"))
    found = {}
    for path in sorted((ROOT / "configs").rglob("[!_]*.py")):
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix().replace("/", ".")
        if name.startswith("helpers."):
            continue
        try:
            config = Config.fromfile(str(path), lazy_import=True).to_dict()
            found[name] = json.dumps(plain(config), indent=1, sort_keys=True, default=str)
        except Exception as error:
            found[name] = steady(f"{type(error).__name__}: {error}")
    return found


def photograph_sampler() -> dict[str, str]:
    """Generate with a small random network over a grid of the sampler's options."""
    from tiny import EOS_ID, EOT_ID, MASK_ID, tiny_model

    from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
    from opencompass_llada.sampling import SpecialTokens

    tokens = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOS_ID, eot_token_id=EOT_ID)
    model, prompts = tiny_model(seed=3), [[72, 101], [5, 6, 7, 8, 9, 10, 11], [200]]
    blocks = ({"block_length": 4, "num_steps": 6}, {"block_length": None, "num_steps": 5})
    strategies = ("low_confidence", "random", "entropy", "topk_margin", "maskgit_plus", "origin")
    extras: tuple[dict[str, Any], ...] = (
        {},
        {"temperature": 0.7, "seed": 5},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 9},
        {"cfg_scale": 1.5},
        {"cache": "prompt"},
        {"cache": {"type": "dual", "refresh": 2}},
        {"acceptance": "threshold"},
        {"acceptance": {"type": "factor"}},
        {"acceptance": {"type": "entropy_bound"}},
    )
    lines = []
    for block, strategy, extra in itertools.product(blocks, strategies, extras):
        options = {**block, "remasking": strategy, **extra}
        try:
            engine = MaskedDiffusionEngine(model, SamplerSettings(options), tokens)
            made = [g.token_ids for g in engine.generate(prompts, max_new_tokens=12)]
            lines.append(f"{options} -> {made}")
        except ValueError as error:
            lines.append(f"{options} -> {error}")
    return {"ids": "\n".join(lines)}


def photograph_training() -> dict[str, str]:
    """Train 20 steps by two small recipes, as the command does, and note the losses."""
    import yaml
    from finetune_runs import LONGER, RECIPE

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        phases = [{"sequence_length": 512, "num_steps": 4, "rows_per_step": 2}]
        longer = {**LONGER, "init_from": f"{folder}/scratch/final", "phases": phases}
        for name, recipe in (("scratch", RECIPE), ("longer", longer)):
            output = Path(folder) / name
            file = Path(folder) / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**recipe, "output_dir": str(output), "log_every": 1}))
            call = [sys.executable, "-m", "opencompass_llada.finetune", str(file)]
            done = subprocess.run(
                call, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False
            )
            metrics = output / "logs" / "metrics.jsonl"
            rows = metrics.read_text().splitlines() if metrics.is_file() else []
            losses = [json.loads(row).get("loss") for row in rows]
            lines = [f"{loss:.6f}" for loss in losses if loss is not None]
            found[name] = "\n".join([f"exit {done.returncode}", *lines])
    return found


def photograph_commands() -> dict[str, str]:
    """Run the commands with good and bad words, and note what they print and how they end."""
    python = sys.executable
    cli = [python, "-m", "opencompass_llada.cli"]
    calls = {
        "help": [*cli, "--help"],
        "report_help": [*cli, "report", "--help"],
        "watch_help": [*cli, "watch", "--help"],
        "doctor_help": [*cli, "doctor", "--help"],
        "fidelity_help": [*cli, "fidelity", "--help"],
        "report_nothing": [*cli, "report", "no_such_folder", "-o", "no_such_report"],
        "run_no_config": [python, "run.py", "configs/eval_llada_nia.py"],
        "train_no_recipe": [python, "-m", "opencompass_llada.finetune", "no_such.yaml"],
    }
    found = {}
    for name, call in calls.items():
        done = subprocess.run(
            call, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False
        )
        found[name] = steady(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return found


def photograph_report(run: Path) -> dict[str, str]:
    """Report a finished run again and keep every text that is written of it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-m", "opencompass_llada.cli", "report", str(run), "-o", folder]
        done = subprocess.run(
            call, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False
        )
        found["command"] = steady(f"exit {done.returncode}\n{done.stdout}")
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".csv", ".md", ".tex", ".html", ".json"):
                found[path.relative_to(folder).as_posix().replace("/", ".")] = steady(
                    path.read_text(encoding="utf-8")
                )
            elif path.is_file():
                found[path.name + ".exists"] = ""
    return found


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LLADA_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


PARTS: dict[str, Callable[[], dict[str, str]]] = {
    "configs": photograph_configs,
    "sampler": photograph_sampler,
    "training": photograph_training,
    "commands": photograph_commands,
}


def main() -> None:
    """Take the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}, report")
    parser.add_argument("--run", type=Path, help="a finished run's folder, for the report")
    given = parser.parse_intermixed_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.chdir(ROOT)
    parts = dict(PARTS)
    if given.run is not None:
        parts["report"] = lambda: photograph_report(given.run.resolve())
    for name in given.parts or parts:
        folder = given.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in parts[name]().items():
            (folder / f"{file}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
