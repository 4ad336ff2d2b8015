"""Makes OpenCompass work directories with known results, for tests and benchmarks of the report.

Everything is drawn from a seed; no model runs. `write_run` writes what a real run leaves:
configs/, predictions/, results/, logs/ and provenance/.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LENGTHS = (2000, 4000, 8000, 16000, 24000, 32000)
DEPTHS = tuple(range(0, 101, 10))
RULER_TASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2"),
    *("niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"),
    *("qa_squad", "qa_hotpotqa"),
)
WORDS = ["amber", "bridge", "candle", "dune", "ember", "field", "glass", "harbour", "iron"]


def make_model(abbr: str, **options: Any) -> dict[str, Any]:
    """Return a model config."""
    return {
        "type": "opencompass_llada.wrapper.LLaDACausalLM",
        "abbr": abbr,
        "path": f"somewhere/{abbr}",
        "rope_scaling": {"type": "none"},
        "sampler": {"block_length": 32, "num_steps": 32},
        "max_out_len": 32,
        **options,
    }


def niah_cell(length: int, depth: int, repeats: int = 2, **options: Any) -> dict[str, Any]:
    """Return the config of a needle cell."""
    return {
        "abbr": f"niah_length{length}_depth{depth:03d}",
        "type": "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset",
        "length": length,
        "depth": depth,
        "language": "English",
        "file_list": ["en_un_asr.jsonl"],
        "path": "data/needlebench",
        "tokenizer": "gpt-4",
        "guide": False,
        "num_repeats_per_file": repeats,
        "reader_cfg": {"input_columns": ["prompt"]},
        "infer_cfg": {"inferencer": {"max_out_len": 32}},
        **options,
    }


def ruler_cell(task: str, length: int, num_samples: int = 4) -> dict[str, Any]:
    """Return the config of a RULER data set."""
    return {
        "abbr": f"ruler_{task}_length{length}",
        "type": "opencompass_llada.benchmarks.ruler.dataset.RulerDataset",
        "benchmark": "ruler",
        "task": task,
        "length": length,
        "num_samples": num_samples,
        "path": "data/ruler",
        "tokenizer": "gpt-4",
        "infer_cfg": {"inferencer": {"max_out_len": 64}},
    }


def write_run(
    folder: Path,
    models: Sequence[dict[str, Any]],
    datasets: Sequence[dict[str, Any]],
    *,
    quality: float = 0.9,
    characters_a_token: float = 0.2,
    titles: Sequence[str] = (),
    prediction: str | None = None,
    word: str = "document",
    record: bool = True,
) -> Path:
    """Write a finished run.

    Args:
        folder: Its folder.
        models: Configs; the first is the best.
        datasets: Configs from `niah_cell` and `ruler_cell`.
        quality: Chance of a hit at short lengths.
        characters_a_token: Characters that a prompt has for each token of its length.
        titles: Of the models, for the summarizer's description; by default none.
        prediction: What wrong answers say.
        word: Part of every prompt; another makes other prompts.
        record: Write provenance/.
    """
    (folder / "configs").mkdir(parents=True)
    described = [
        {"abbr": model["abbr"], "title": title, "trained_length": 4000}
        for model, title in zip(models, titles, strict=False)
    ]
    config = {
        "models": list(models),
        "datasets": list(datasets),
        "summarizer": {"models": described},
        "work_dir": str(folder),
    }
    text = "".join(f"{name}={value!r}\n" for name, value in config.items())
    (folder / "configs" / f"{folder.name}_1.py").write_text(text)
    for place, model in enumerate(models):
        for dataset in datasets:
            chance = quality - 0.02 * place
            chance *= min(1.0, 9000 / dataset["length"]) if place % 3 else 1.0
            _write_cell(folder, model, dataset, chance, characters_a_token, prediction, word)
        if record:
            _write_provenance(folder, model, datasets, place)
    return folder


def _write_cell(
    folder: Path,
    model: dict[str, Any],
    dataset: dict[str, Any],
    chance: float,
    characters_a_token: float,
    wrong: str | None,
    word: str,
) -> None:
    number = dataset.get("num_repeats_per_file") or dataset["num_samples"]
    draw = random.Random(f"{model['abbr']} {dataset['abbr']}")
    answers, details = {}, []
    for index in range(number):
        needle = f"The password of island {index} is {WORDS[index % len(WORDS)]} {index}."
        hit = draw.random() < chance
        prediction = needle if hit else (wrong or f"{draw.choice(WORDS)} {draw.choice(WORDS)}")
        filler = " ".join(WORDS) + ". "
        size = int(dataset["length"] * characters_a_token)
        prompt = f"The {word} {index}: " + (filler * (size // len(filler) + 1))[:size]
        prompt += f"\nThe password of island {index} is"
        answers[str(index)] = {"origin_prompt": prompt, "prediction": prediction, "gold": needle}
        detail: dict[str, Any] = {"prediction": [prediction], "score": [100.0 if hit else 5.0]}
        if "depth" in dataset:
            keyword = f"{WORDS[index % len(WORDS)]} {index}"
            detail |= {"needle": [needle], "keyword": [keyword], "correct": [hit]}
        else:
            detail |= {"references": [[needle]], "score": [100.0 if hit else 0.0]}
        details.append(detail)
    result: dict[str, Any] = {
        "score": sum(detail["score"][0] for detail in details) / number,
        "num_samples": number,
        "details": details,
    }
    if "depth" in dataset:
        result["accuracy"] = 100 * sum(detail["correct"][0] for detail in details) / number
    write_json(folder / "predictions" / model["abbr"] / f"{dataset['abbr']}.json", answers)
    write_json(folder / "results" / model["abbr"] / f"{dataset['abbr']}.json", result)


def _write_provenance(
    folder: Path, model: dict[str, Any], datasets: Sequence[dict[str, Any]], place: int
) -> None:
    path = folder / "provenance" / f"{model['abbr']}.jsonl"
    path.parent.mkdir(exist_ok=True)
    kind = "llama" if "ar" in model["abbr"].split("-") else "llada"
    lines: list[dict[str, Any]] = [
        {
            "kind": "model",
            "model": model["abbr"],
            "model_type": kind,
            "checkpoint_hash": f"{place:016d}",
            "device": "cpu",
            "dtype": "float32",
        }
    ]
    for dataset in datasets:
        number = dataset.get("num_repeats_per_file") or dataset["num_samples"]
        lines.append(
            {
                "kind": "dataset",
                "model": model["abbr"],
                "dataset": dataset["abbr"],
                "num_samples": number,
                "num_prompts": number,
                "num_generated_tokens": 32 * number,
                "num_forward_passes": (8 + 2 * place) * number,
                "num_batch_passes": (8 + 2 * place) * number // 2,
                "seconds": 0.02 * (1 + place) * number,
                "wall_seconds": 0.03 * (1 + place) * number,
                "peak_memory_bytes": 2**30,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
