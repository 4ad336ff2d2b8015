"""Computes how long the recipes of LLaDA-8B train, by a formula and the MFU that was measured.

    python benchmarks/training_hours.py --record benchmarks/records/training_hours.json

Nothing is trained. Operations are those of `step_flops`, with one document a row, which is the most
that a row can cost, and the mean share of masked tokens. The MFU is a record's: of all weights on
two GPUs, and of adapters on one. Evaluations and the first steps' compilation come on top.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from recording import describe_run, write_record  # noqa: E402

from opencompass_llada.finetune.recipe import Recipe  # noqa: E402
from opencompass_llada.finetune.recipe_file import load_recipe  # noqa: E402
from opencompass_llada.finetune.resources import (  # noqa: E402
    NetworkShape,
    peak_flops,
    step_flops,
)
from opencompass_llada.networks import LLaDAConfig  # noqa: E402

GPU = "NVIDIA H100 80GB HBM3"
_ALL_WEIGHTS = ("finetune_speed_two_h100.json", "full_bf16_128k")
_ADAPTERS = ("finetune_speed_h100.json", "direct_64k")
#: Recipes of LLaDA-8B -> file and case of the record that has their MFU.
RECIPES = {
    "ultrallada_8b": _ALL_WEIGHTS,
    "ultrallada_8b_64k": _ALL_WEIGHTS,
    "ultrallada_8b_128k": _ALL_WEIGHTS,
    "lora_8b_64k": _ADAPTERS,
}


def run_flops(recipe: Recipe, shape: NetworkShape) -> float:
    """Return the floating-point operations of all steps, one document a row."""
    mean_ratio = (1 + recipe.min_mask_ratio) / 2
    return sum(
        phase.num_steps
        * phase.rows_per_step
        * step_flops(
            shape,
            (phase.sequence_length,),
            round(mean_ratio * phase.sequence_length),
            recipe.block_length_of(phase),
        )
        for phase in recipe.phases
    )


def gpu_hours(flops: float, mfu: float, device_name: str) -> float:
    """Return the hours that one GPU computes for at a share of its peak."""
    peak = peak_flops(device_name)
    assert peak is not None, device_name
    return flops / (mfu * peak) / 3600


def estimate(name: str) -> dict[str, Any]:
    """Return a recipe's operations, tokens and hours."""
    recipe = load_recipe(ROOT / "configs" / "finetune" / f"{name}.yaml")
    record, case = RECIPES[name]
    rows = json.loads((ROOT / "benchmarks/records" / record).read_text(encoding="utf-8"))["rows"]
    (mfu,) = [row["mfu"] for row in rows if row["case"] == case]
    rank = recipe.lora.rank if recipe.lora else 0
    flops = run_flops(recipe, NetworkShape(LLaDAConfig().shape, rank))
    tokens = [p.num_steps * p.rows_per_step * p.sequence_length for p in recipe.phases]
    return {
        "recipe": name,
        "row": recipe.trained_length,
        "tokens_a_step": recipe.phases[0].rows_per_step * recipe.phases[0].sequence_length,
        "tokens": sum(tokens),
        "flops": flops,
        "mfu": mfu,
        "mfu_of": f"{record}: {case}",
        "gpu_hours": gpu_hours(flops, mfu, GPU),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the hours and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, default=Path("training_hours.json"))
    options = parser.parse_args(arguments)
    rows = {name: estimate(name) for name in RECIPES}
    for name, row in rows.items():
        print(
            f"{name:<20} {row['tokens'] / 1e9:5.2f}B tokens, {row['flops']:.3g} operations, MFU "
            f"{100 * row['mfu']:.1f} %: {row['gpu_hours']:6.1f} H100-hours"
        )
    write_record(options.record, describe_run() | {"gpu": GPU, "recipes": rows})


if __name__ == "__main__":
    main()
