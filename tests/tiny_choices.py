"""A tiny data set for OpenCompass, and how to run it in one process."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from mmengine.config import Config
from opencompass.datasets.base import BaseDataset
from opencompass.openicl.icl_evaluator import AccEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import FixKRetriever, ZeroRetriever
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

from opencompass_llada.wrapper import LLaDACausalLM

ROWS = [
    {"question": "sky", "A": "is blue", "B": "is", "answer": "A", "cont": "end"},
    {"question": "grass is", "A": "red", "B": "green", "answer": "B", "cont": "end"},
    {"question": "one", "A": "two three", "B": "nine nine", "answer": "A", "cont": "end"},
]


class TinyChoices(BaseDataset):
    """Three questions with two options each."""

    @staticmethod
    def load(**_: Any) -> DatasetDict:
        return DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)})


def label_template(option: str) -> dict[str, Any]:
    """Return one option's template, of turns."""
    return {"round": [{"role": "HUMAN", "prompt": "Q: {question}"},
                      {"role": "BOT", "prompt": "A: {" + option + "}"}]}  # fmt: skip


def choices(inferencer: Any, abbr: str = "choices", num_shots: int = 0, **options: Any) -> dict:
    """Return a data set config in PPL mode."""
    prompt = {"A": label_template("A"), "B": label_template("B")}
    infer = {
        "prompt_template": {"type": PromptTemplate, "template": prompt},
        "retriever": {"type": ZeroRetriever},
        "inferencer": {"type": inferencer, **options},
    }
    if num_shots:
        for label in prompt.values():
            label["begin"] = "</E>"
        infer["prompt_template"]["ice_token"] = "</E>"
        infer["ice_template"] = {"type": PromptTemplate, "template": deepcopy(prompt)}
        for label in infer["ice_template"]["template"].values():
            del label["begin"]
        infer["retriever"] = {"type": FixKRetriever, "fix_id_list": list(range(num_shots))}
    return {
        "abbr": abbr,
        "type": TinyChoices,
        "path": "none",
        "reader_cfg": {"input_columns": ["question", "A", "B"], "output_column": "answer"},
        "infer_cfg": infer,
        "eval_cfg": {"evaluator": {"type": AccEvaluator}},
    }


def questions(abbr: str = "questions", **options: Any) -> dict:
    """Return a data set config in generation mode."""
    turns = [{"role": "HUMAN", "prompt": "Q: {question}"}, {"role": "BOT", "prompt": "{answer}"}]
    return {
        "abbr": abbr,
        "type": TinyChoices,
        "path": "none",
        "reader_cfg": {"input_columns": ["question"], "output_column": "answer"},
        "infer_cfg": {
            "prompt_template": {"type": PromptTemplate, "template": {"round": turns}},
            "retriever": {"type": ZeroRetriever},
            "inferencer": {"type": GenInferencer, "max_out_len": 8, **options},
        },
        "eval_cfg": {"evaluator": {"type": AccEvaluator}},
    }


def model_config(path: str, **options: Any) -> dict:
    """Return a model config of the wrapper, on the CPU."""
    return {
        "type": LLaDACausalLM, "abbr": "tiny", "path": str(path), "batch_size": 2,
        "run_cfg": {"num_gpus": 0}, **options,
    }  # fmt: skip


def run(work_dir: Path, models: dict | list[dict], datasets: list[dict]) -> None:
    """Infer and evaluate as OpenCompass's tasks do in a process of their own."""
    models = models if isinstance(models, list) else [models]
    cfg = plain({"models": models, "datasets": [datasets] * len(models)})
    cfg["work_dir"] = str(work_dir)
    for task in (OpenICLInferTask, OpenICLEvalTask):
        task(Config(deepcopy(cfg))).run()


def plain(value: Any) -> Any:
    """Return a config value with classes as dotted names, as a dumped config has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return f"{value.__module__}.{value.__name__}" if isinstance(value, type) else value
