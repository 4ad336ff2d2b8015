"""A small config that tests run in their own process, change and resume."""

import importlib
import json
import shutil
import sys

from opencompass_llada.files import append_line, sealed_line
from opencompass_llada.runs import launch as launch_module

CONFIG = """
from opencompass.datasets import JsonlDataset
from opencompass.openicl.icl_evaluator import EMEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer, PPLInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever
from opencompass.partitioners import NaivePartitioner
from opencompass_llada.runs.partitioner import CostAwarePartitioner
from opencompass.runners import LocalRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

from opencompass_llada.benchmarks.perplexity.inferencer import PerplexityInferencer
from opencompass_llada.wrapper import LLaDACausalLM

models = [dict(type=LLaDACausalLM, abbr=__abbr, **{model!r}) for __abbr in {abbrs!r}]
datasets = [
    dict(type=JsonlDataset, abbr=__set, path={data!r},
         reader_cfg=dict(input_columns=['question'], output_column='answer'),
         infer_cfg=dict(
             prompt_template=dict(type=PromptTemplate, template={template!r}),
             retriever=dict(type=ZeroRetriever),
             inferencer=dict(type={inferencer}, **{options!r})),
         eval_cfg=dict(evaluator=dict(type=EMEvaluator), **{evaluator!r}))
    for __set in {sets!r}
]
infer = dict(
    partitioner=dict({partitioner}),
    runner=dict(type=LocalRunner, max_num_workers=1, task=dict(type=OpenICLInferTask)))
eval = dict(
    partitioner=dict(type=NaivePartitioner, n=50),
    runner=dict(type=LocalRunner, max_num_workers=1, task=dict(type=OpenICLEvalTask)))
work_dir = {work_dir!r}
"""
NAIVE = "type=NaivePartitioner, n=50"
SPLIT = "type=CostAwarePartitioner, num_tasks={}"
ROWS = [{"question": f"number {i}" + " and" * i, "answer": [f"{i}"]} for i in range(4)]


class Job:
    """A config that can be changed, run and resumed."""

    def __init__(self, folder, checkpoint):
        self.folder, self.work_dir = folder, folder / "work"
        self.checkpoint = folder / "final"
        shutil.copytree(checkpoint, self.checkpoint)
        self.data = folder / "rows.jsonl"
        self.write_rows(ROWS)
        self.model = dict(
            path=str(self.checkpoint), max_out_len=8, batch_size=2, seed=3, max_seq_len=200,
            sampler=dict(block_length=4, num_steps=4, temperature=0.7), dtype="float32",
            run_cfg=dict(num_gpus=0),
        )  # fmt: skip
        self.rest = dict(template="Say {question} is", inferencer="GenInferencer", options={},
                         evaluator={}, partitioner=NAIVE, abbrs=("model",),
                         sets=("set",))  # fmt: skip

    def write_rows(self, rows):
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *words, debug=True):
        """Run OpenCompass's main() and return the exit status, or what SystemExit says."""
        file = self.folder / "job.py"
        file.write_text(CONFIG.format(model=self.model, data=str(self.data), **self.rest,
                                      work_dir=str(self.work_dir)))  # fmt: skip
        sys.argv = ["run.py", str(file), *(["--debug"] if debug else []), *words]
        try:
            return launch_module.launch()
        except SystemExit as stop:
            return stop.code

    @property
    def path(self):
        """Folder of the newest run."""
        return max(path for path in self.work_dir.iterdir() if (path / "configs").is_dir())

    def answers(self, model="model"):
        return json.loads((self.path / f"predictions/{model}/set.json").read_text())


def prepare(monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    monkeypatch.setattr(sys, "argv", [])
    importlib.import_module("opencompass.cli.main")


def stop_half_way(final, kept=2, mark=""):
    """Leave predictions as they are when inference is killed after some samples."""
    rows = json.loads(final.read_text())
    for key in list(rows)[:kept]:
        row = {"idx": key, **rows[key], "prediction": mark + rows[key]["prediction"]}
        append_line(final.with_name(f"tmp_{final.stem}.jsonl"), sealed_line(row))
    final.unlink()
