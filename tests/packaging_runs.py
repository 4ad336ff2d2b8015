"""What the packaging tests share: a small OpenCompass job, and ways to run it in a clean process.

The development environment holds an editable install of the package; `hide_editable_install` makes
a folder that, put on PYTHONPATH, takes it out of sight of a process and its children.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

JOB = """
from mmengine.config import read_base
from opencompass.datasets import JsonlDataset
from opencompass.openicl.icl_evaluator import EMEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever
from opencompass.partitioners import NaivePartitioner
from opencompass.runners import LocalRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

from opencompass_llada.wrapper import LLaDACausalLM

with read_base():
    from {configs}.helpers.planning import count_gpus as __count_gpus

models = [
    dict(type=LLaDACausalLM, abbr=__abbr, path=__path, max_out_len=16, batch_size=2,
         sampler=dict(block_length=8, num_steps=8, temperature=0.7), seed=5,
         rope_scaling=dict(type='diffusion_ntk', target_length=256),
         run_cfg=dict(num_gpus=__count_gpus()))
    for __abbr, __path in {models!r}
]
datasets = [
    dict(type=JsonlDataset, abbr='toy_' + __name, path=__path,
         reader_cfg=dict(input_columns=['question'], output_column='answer'),
         infer_cfg=dict(
             prompt_template=dict(
                 type=PromptTemplate,
                 template=dict(round=[dict(role='HUMAN', prompt='{{question}} is')])),
             retriever=dict(type=ZeroRetriever),
             inferencer=dict(type=GenInferencer)),
         eval_cfg=dict(evaluator=dict(type=EMEvaluator)))
    for __name, __path in {datasets!r}
]
infer = dict(
    partitioner=dict(type=NaivePartitioner, n=50),
    runner=dict(type=LocalRunner, max_num_workers=2, task=dict(type=OpenICLInferTask)))
eval = dict(
    partitioner=dict(type=NaivePartitioner, n=50),
    runner=dict(type=LocalRunner, max_num_workers=2, task=dict(type=OpenICLEvalTask)))
"""
TREES = ("opencompass_llada", "configs", "needlebench", "ruler_patches", "tiny_models")
FILES = ("run.py", "setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in")

_HIDER = """
import sys
sys.meta_path[:] = [
    finder for finder in sys.meta_path
    if not getattr(finder, "__module__", "").startswith("__editable___opencompass_llada")
]
"""


def write_job(
    file: Path, *, models: dict[str, Path], configs: str = "opencompass_llada.configs"
) -> Path:
    """Write a config with two small data sets beside it, and return its path."""
    datasets = []
    for name in ("one", "two"):
        path = file.parent / f"{name}.jsonl"
        rows = [{"question": f"{name} {i}" + " and" * i, "answer": ["x"]} for i in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        datasets.append((name, str(path)))
    named = [(abbr, str(path)) for abbr, path in models.items()]
    file.write_text(JOB.format(configs=configs, models=named, datasets=datasets))
    return file


def copy_checkout(root: Path, target: Path) -> Path:
    """Copy what a checkout holds, links as links, without build products."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for tree in TREES:
        shutil.copytree(root / tree, target / tree, symlinks=True, ignore=ignore)
    for file in FILES:
        shutil.copy(root / file, target / file)
    return target


def hide_editable_install(folder: Path) -> Path:
    """Make the folder described at the top of this file."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HIDER)
    return folder


def run_python(arguments: list[str], *, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess:
    """Run Python with exactly these folders on PYTHONPATH; output is captured as text."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    environment |= {"OMP_NUM_THREADS": "1", "OPENCOMPASS_LLADA_PROGRESS": "off"}
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def read_predictions(run: Path) -> dict[str, list[str]]:
    """Return the answers of a run by model/data set."""
    found = {}
    for file in sorted((run / "predictions").glob("*/*.json")):
        answers = json.loads(file.read_text())
        key = f"{file.parent.name}/{file.stem}"
        found[key] = [answers[str(i)]["prediction"] for i in range(len(answers))]
    return found


def only_run(work_dir: Path) -> Path:
    """Return the directory of the one run below a work directory."""
    (run,) = work_dir.iterdir()
    return run
