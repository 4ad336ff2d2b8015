"""The study of post-training at tiny scale: scaling x strategy x full or adapters x length.

    python benchmarks/finetune_study.py --scalings none ntk diffusion_ntk
        --strategies adaptive eod direct --factors 4 16 32 --methods full lora --seeds 0 1 2

Each cell post-trains tiny-llada (512 tokens) to 512 x factor tokens on the same number of tokens
and measures: needle in the embedded haystack by depth, RULER's tasks, perplexity of the same target
tokens by context length (512 is the short-context loss), and minutes. Cells that the record holds
are not run again, so that several calls fill one record. ``--tiny`` proves the script on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import describe_run, write_record  # noqa: E402

from opencompass_llada.datasets.haystack import HaystackStore  # noqa: E402
from opencompass_llada.datasets.needle_cells import NeedleCell, make_samples  # noqa: E402
from opencompass_llada.datasets.ruler.build import build_samples  # noqa: E402
from opencompass_llada.datasets.ruler.matching import MATCHES  # noqa: E402
from opencompass_llada.datasets.ruler.tasks import TASKS, QuestionTask, RulerSpec  # noqa: E402
from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings  # noqa: E402
from opencompass_llada.finetune.evaluation import measure_perplexity  # noqa: E402
from opencompass_llada.finetune.loop import Trainer  # noqa: E402
from opencompass_llada.finetune.recipe import Recipe  # noqa: E402
from opencompass_llada.finetune.recipe_file import parse_recipe  # noqa: E402
from opencompass_llada.modeling import load_checkpoint  # noqa: E402
from opencompass_llada.prompting.tokenization import PromptEncoder, load_tokenizer  # noqa: E402
from opencompass_llada.sampling import SpecialTokens  # noqa: E402

TRAINED, TOKENS_A_STEP = 512, 131072
DEPTHS = tuple(range(0, 101, 10))
TASK_NAMES = tuple(name for name, task in TASKS.items() if not isinstance(task, QuestionTask))
#: What generates: as tiny-llada's needle figures were made, and twice as long for RULER.
SAMPLER = {"block_length": 16, "num_steps": 4}
NEW_TOKENS = {"needle": 16, "ruler": 32}


def make_recipe(cell: dict[str, Any], folder: Path, arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a cell."""
    length = TRAINED * cell["factor"]
    scaling = {"type": cell["scaling"]}
    if cell["scaling"] != "none":
        scaling["target_length"] = length
    rows = max(1, TOKENS_A_STEP // length) if not arguments.tiny else 1
    steps = 1 if arguments.tiny else max(1, arguments.tokens // (rows * length))
    lengths = [TRAINED] if arguments.tiny else sorted({TRAINED, length // 4, length, 2 * length})
    text: list[dict[str, Any]] = [
        {"generated_seed": 1, "num_documents": 20 if arguments.tiny else 3000}
    ]
    if arguments.text:
        text.append({"paths": arguments.text, "text_field": arguments.text_field})
    return parse_recipe(
        {
            "output_dir": str(folder),
            "init_from": arguments.init_from,
            "rope_scaling": scaling,
            "strategy": cell["strategy"],
            "lora": {"rank": 16, "alpha": 32} if cell["method"] == "lora" else None,
            "text": text,
            "phases": [{"sequence_length": length, "num_steps": steps, "rows_per_step": rows}],
            "retrieval_share": arguments.retrieval_share,
            "learning_rate": 1e-3 if cell["method"] == "full" else 3e-3,
            "warmup_steps": min(100, steps // 10),
            "num_workers": 0 if arguments.tiny else 14,
            "compile": not arguments.tiny and cell["strategy"] != "adaptive",
            "probe_every": 10**6,
            "keep_last": 1,
            "seed": cell["seed"],
            "evaluation": {
                "retrieval_rows": 0,
                "lengths": lengths,
                "text": {"generated_seed": 2, "num_documents": 60},
                "target_tokens": 64,
                "num_texts": 2 if arguments.tiny else 32,
                "draws": 4 if arguments.tiny else 16,
            },
        }
    )


class Model:
    """A checkpoint that answers prompts."""

    def __init__(self, folder: Path) -> None:
        """Load it."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.network = load_checkpoint(folder, dtype=dtype, device=device)
        self.tokenizer = load_tokenizer(folder, {})
        config = self.network.config
        self.encoder = PromptEncoder(self.tokenizer, config.mask_token_id)
        tokens = SpecialTokens(
            mask_token_id=config.mask_token_id, eos_token_id=config.eos_token_id, eot_token_id=None
        )
        settings = SamplerSettings(SAMPLER)
        self.engine = MaskedDiffusionEngine(self.network, settings, tokens)

    def answer(self, prompt: str, kind: str) -> str:
        """Return the text generated after a prompt."""
        length = NEW_TOKENS[kind]
        (made,) = self.engine.generate([self.encoder.encode(prompt)], max_new_tokens=length)
        return self.encoder.decode(made.token_ids)


def needle_figures(
    model: Model, folder: Path, length: int, repeats: int, store: HaystackStore
) -> dict[str, float]:
    """Return percent of keywords found, by depth."""
    figures = {}
    for depth in DEPTHS:
        cell = NeedleCell(
            path="asset:needlebench",
            length=length,
            depth=depth,
            tokenizer=str(folder),
            file_list=["synthetic_en.jsonl"],
            num_repeats_per_file=repeats,
            length_buffer="fit",
            generation_reserve=NEW_TOKENS["needle"],
            guide=False,
            language="English",
        )
        found = [
            sample["keyword"] in model.answer(sample["prompt"], "needle")
            for sample in make_samples(cell, store)
        ]
        figures[str(depth)] = 100 * sum(found) / len(found)
    return figures


def ruler_figures(model: Model, folder: Path, length: int, samples: int) -> dict[str, float | None]:
    """Return scores by task; None for a task that does not fit the length."""
    figures: dict[str, float | None] = {}
    tokenizer = HaystackStore().tokenizer(str(folder))
    for name in TASK_NAMES:
        spec = RulerSpec(
            task=name,
            length=length,
            tokenizer=str(folder),
            num_samples=samples,
            path="asset:needlebench",
            essay_file="synthetic_en.jsonl",
        )
        try:
            made = build_samples(spec, tokenizer)
        except ValueError:
            figures[name] = None
            continue
        match = MATCHES[TASKS[name].match]
        scores = [match(model.answer(sample.prompt, "ruler"), sample.answers) for sample in made]
        figures[name] = 100 * sum(scores) / len(scores)
    return figures


def run_cell(cell: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one cell."""
    folder = Path(tempfile.mkdtemp(prefix="finetune-study-"))
    try:
        trainer = Trainer(make_recipe(cell, folder / "run", arguments))
        start = time.perf_counter()
        final = trainer.train()
        minutes = (time.perf_counter() - start) / 60
        model, store = Model(final), HaystackStore()
        target = TRAINED * cell["factor"]
        lengths = [TRAINED] if arguments.tiny else sorted({TRAINED, target // 2, target})
        held_out = trainer.data.held_out
        assert held_out is not None
        return cell | {
            "steps": trainer.step,
            "tokens": trainer.tokens_seen,
            "minutes": minutes,
            "loss": trainer.history[-1]["loss"],
            "needle": {
                str(length): needle_figures(model, final, length, arguments.repeats, store)
                for length in lengths
            },
            "ruler": {
                str(length): ruler_figures(model, final, length, arguments.ruler_samples)
                for length in (lengths if arguments.ruler_samples else [])
            },
            "perplexity": measure_perplexity(
                model.network, trainer.recipe, held_out, model.engine.device
            ),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(given: list[str] | None = None) -> None:
    """Run the cells that the record lacks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scalings", nargs="+", default=["diffusion_ntk"])
    parser.add_argument("--strategies", nargs="+", default=["eod"])
    parser.add_argument("--methods", nargs="+", default=["full"], choices=["full", "lora"])
    parser.add_argument("--factors", nargs="+", type=int, default=[4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--init-from", default="asset:tiny-llada")
    parser.add_argument("--tokens", type=int, default=60_000_000, help="trained on, each cell")
    parser.add_argument("--retrieval-share", type=float, default=0.5)
    parser.add_argument("--text", nargs="*", default=[], help="globs of more training text")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--repeats", type=int, default=20, help="needle samples a depth")
    parser.add_argument("--ruler-samples", type=int, default=20, help="samples a task; 0 for none")
    parser.add_argument("--record", type=Path, default=Path("finetune_study.json"))
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(given)
    rows = []
    if arguments.record.is_file():
        rows = json.loads(arguments.record.read_text(encoding="utf-8"))["rows"]
    names = ("scaling", "strategy", "method", "factor", "seed")
    grid = itertools.product(
        arguments.scalings,
        arguments.strategies,
        arguments.methods,
        arguments.factors,
        arguments.seeds,
    )
    for values in grid:
        cell = dict(zip(names, values, strict=True))
        if any(all(row[name] == cell[name] for name in names) for row in rows):
            continue
        rows.append(run_cell(cell, arguments))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "ruler"}), flush=True)
        facts = describe_run(("torch", "transformers", "peft"))
        write_record(arguments.record, facts | {"rows": rows})


if __name__ == "__main__":
    main()
