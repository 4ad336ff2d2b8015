"""Small RULER data for tests, in the published layouts, and the stock data sets beside ours."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import opencompass
from mmengine.config import Config

STOCK = Path(opencompass.__file__).parent / "configs" / "datasets" / "ruler" / "ruler_4k_gen.py"
HOST_KEYS = ("abbr", "type", "reader_cfg", "infer_cfg", "eval_cfg")
WORDS = [
    "amber",
    "bridge",
    "candle",
    "dune",
    "ember",
    "field",
    "glass",
    "harbour",
    "iron",
    "jacket",
    "kettle",
    "lamp",
]


def sentences(draw: random.Random, num_words: int) -> str:
    """Return text of short sentences."""
    return " ".join(
        draw.choice(WORDS) + (". " if index % 9 == 8 else "") for index in range(num_words)
    )


def write_ruler(folder: Path, *, num_documents: int = 120) -> Path:
    """Write essays, SQuAD and HotpotQA in their layouts and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(3)
    essays = [json.dumps({"text": sentences(draw, 1500)}) + "\n" for _ in range(6)]
    (folder / "PaulGrahamEssays.jsonl").write_text("".join(essays))
    articles = []
    for article in range(num_documents // 4):
        paragraphs = []
        for part in range(4):
            question = {
                "question": f"What is in {article} of {part}?",
                "is_impossible": part == 3,
                "answers": [{"text": "iron"}, {"text": f"the {part}"}],
            }
            paragraphs.append({"context": sentences(draw, 60), "qas": [question]})
        articles.append({"paragraphs": paragraphs})
    (folder / "dev-v2.0.json").write_text(json.dumps({"data": articles}))
    rows = [
        {
            "question": f"Which came first, {number}?",
            "answer": "yes",
            "context": [[f"T{number}.{i}", [sentences(draw, 20), " End."]] for i in range(10)],
        }
        for number in range(num_documents // 10)
    ]
    (folder / "hotpotqa.json").write_text(json.dumps(rows))
    return folder


def stock_samples(
    task: str, length: int, num_samples: int, folder: Path, tokenizer: str
) -> list[tuple[str, list[str]]]:
    """Return prompts and answers of OpenCompass's own class with its own parameters."""
    config = next(
        entry
        for entry in Config.fromfile(str(STOCK))["ruler_datasets"]
        if entry["abbr"] == f"ruler_{task}_4k"
    )
    options = {key: value for key, value in config.items() if key not in HOST_KEYS}
    options.update(max_seq_length=length, num_samples=num_samples, tokenizer_model=tokenizer)
    if "base_path" in options:
        options["base_path"] = str(folder)
    if "path" in options:
        options["path"] = str(folder / Path(options["path"]).name)
    with contextlib.redirect_stdout(io.StringIO()):
        made = config["type"].load(**options)
    return list(zip(made["prompt"], made["answer"], strict=True))
