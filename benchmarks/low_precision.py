"""What is learnt with weights of low precision: updates of one run, losses of several seeds.

    python benchmarks/low_precision.py updates --steps 40
    python benchmarks/low_precision.py runs --seeds 3 --steps 60
    torchrun --nproc_per_node 2 benchmarks/low_precision.py runs --seeds 3 --steps 60
    python benchmarks/low_precision.py frozen --seeds 3 --steps 30 --length 1024

``updates`` post-trains tiny-llada at the 8B recipes' rate, decay and schedule once for each kind of
weights. It gives the share of weights that changed, and how the change lies to that of float32:
its projection <u, v> / <v, v> and its cosine. ``exact`` has the low halves. ``seen`` is what the
network sees; of float32 the nearest bfloat16. ``runs`` trains a small network from scratch and
compares the mean loss of the last quarter of the steps: the difference between kinds at equal seeds
(equal rows and masks) beside the spread of float32 over seeds. ``frozen`` does that with adapters
on tiny-llada, whose frozen weights are in float8 or not rounded. On CUDA all of it runs there.
``--set key=value`` changes the recipe.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from recording import ROOT, describe_run, write_record

from opencompass_llada.finetune.adamw import SplitAdamW, local_part
from opencompass_llada.finetune.number_formats import (
    random_bits,
    read_bfloat16,
    round_to_bfloat16,
)
from opencompass_llada.finetune.recipe_file import load_recipe, parse_override, parse_recipe
from opencompass_llada.finetune.trainer import Trainer
from opencompass_llada.processes import stop_processes

RECIPE = ROOT / "configs" / "finetune" / "ultrallada_8b_64k.yaml"
BFLOAT16 = {"parameter_dtype": "bfloat16"}
PLAIN, ROUNDED = "bfloat16 weights and moments", "rounded at random"
#: Kind of weights -> keys of the recipe.
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16, moments float32": BFLOAT16,
    "bfloat16, moments bfloat16": {**BFLOAT16, "moments": "bfloat16"},
    "bfloat16, moments 8bit": {**BFLOAT16, "moments": "8bit"},
    PLAIN: BFLOAT16,
    ROUNDED: BFLOAT16,
}
UNROUNDED = "unrounded"
ADAPTERS = {"rank": 16, "alpha": 32}
#: Frozen weights under adapters -> keys of the recipe.
FROZEN: dict[str, dict[str, Any]] = {
    UNROUNDED: {"lora": ADAPTERS},
    "float8": {"lora": {**ADAPTERS, "frozen_precision": "float8"}},
}
COMMON = {
    "text": [{"generated_seed": 7, "num_documents": 40}],
    "evaluation": {"retrieval_rows": 0},
    "cache_dir": "none",
    "strategy": "adaptive",
    "rope_scaling": None,
}


class RoundedAdamW:
    """torch's AdamW with float32 moments, of weights rounded to bfloat16 at random each step."""

    def __init__(self, groups: list[dict[str, Any]], seed: int) -> None:
        """Take the groups of another optimiser."""
        self._weights = [weight for group in groups for weight in group["params"]]
        copies = {id(each): local_part(each.detach()).float() for each in self._weights}
        self._copies = list(copies.values())
        kept = ("lr", "betas", "weight_decay")
        own = [
            {
                **{name: group[name] for name in kept},
                "params": [copies[id(w)] for w in group["params"]],
            }
            for group in groups
        ]
        self._inner = torch.optim.AdamW(own)
        self.param_groups, self._key = self._inner.param_groups, seed * 1_000_003

    @torch.no_grad()
    def step(self) -> None:
        """Update the copies in float32 and round them; what rounding cut off is lost."""
        for weight, copy in zip(self._weights, self._copies, strict=True):
            copy.grad = None if weight.grad is None else local_part(weight.grad).float()
        self._inner.step()
        for weight, copy in zip(self._weights, self._copies, strict=True):
            self._key += 1
            index = torch.arange(copy.numel(), dtype=torch.int32, device=copy.device)
            key = torch.tensor(self._key, dtype=torch.int32, device=copy.device)
            random = (random_bits(index, key) & 0xFFFF).view(copy.shape)
            copy.copy_(read_bfloat16(round_to_bfloat16(copy, random)))
            local_part(weight.detach()).copy_(copy)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for weight in self._weights:
            weight.grad = None


def make_trainer(kind: str, values: dict[str, Any], folder: str) -> Trainer:
    """Return a trainer with a kind of weights; two kinds have an optimiser of their own here."""
    changes = (KINDS | FROZEN)[kind]
    trainer = Trainer(parse_recipe({**values, **changes, "output_dir": folder}))
    groups = trainer.optimizer.param_groups
    if kind == PLAIN:
        names = ("params", "lr", "betas", "weight_decay")
        plain = [{name: group[name] for name in names} for group in groups]
        trainer.optimizer = torch.optim.AdamW(plain, fused=trainer.ranks.device.type == "cuda")
    elif kind == ROUNDED:
        trainer.optimizer = RoundedAdamW(groups, trainer.recipe.seed)  # type: ignore[assignment]
    return trainer


def train(trainer: Trainer) -> list[float]:
    """Take all steps and return their losses, over all ranks."""
    losses = [trainer.take_step(phase, batches)[0] for phase, batches in trainer._steps()]
    return trainer.ranks.sum(torch.stack(losses)).tolist()


@torch.no_grad()
def weights_of(trainer: Trainer, *, exact: bool) -> torch.Tensor:
    """Return all trained weights of this process in float32, on the CPU."""
    optimizer, parts = trainer.optimizer, []
    for parameter in trainer.network.parameters():
        is_split = exact and isinstance(optimizer, SplitAdamW)
        value = optimizer.exact_weight(parameter) if is_split else local_part(parameter.detach())
        parts.append(value.float().flatten().cpu())
    return torch.cat(parts)


def last_quarter(losses: list[float]) -> float:
    """Return the mean loss of the last quarter of the steps."""
    return statistics.fmean(losses[-max(1, len(losses) // 4) :])


def compare_updates(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Post-train tiny-llada once for each kind."""
    recipe = load_recipe(RECIPE, [])
    names = ("learning_rate", "weight_decay", "betas", "min_mask_ratio", "clip_norm")
    shape = {"sequence_length": options.length, "num_steps": options.steps, "rows_per_step": 2}
    values = COMMON | {name: getattr(recipe, name) for name in names}
    values |= {"init_from": "asset:tiny-llada", "phases": [shape], "rope_scaling": {"type": "none"}}
    # The recipe's share of warm-up steps: the schedule has its shape.
    values["warmup_steps"] = max(1, recipe.warmup_steps * options.steps // recipe.num_steps)
    values |= dict(parse_override(override) for override in options.set)
    rows: list[dict[str, Any]] = []
    reference = rounded = torch.empty(0)
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(kind, values, folder)
            start = weights_of(trainer, exact=True)
            losses = train(trainer)
        exact, seen = (weights_of(trainer, exact=each) - start for each in (True, False))
        if kind == "float32":
            reference = exact
            rounded = (start + exact).to(torch.bfloat16).float() - start
            seen = rounded  # what a bfloat16 checkpoint of it has, and bfloat16 arithmetic sees
        row: dict[str, Any] = {"kind": kind, "last_loss": last_quarter(losses)}
        for name, moved in (("exact", exact), ("seen", seen)):
            along = (moved.double() @ reference.double()).item()
            length = reference.double().square().sum().item()
            row[name] = {
                "changed_percent": 100 * (moved != 0).double().mean().item(),
                "projection": along / length,
                "cosine": along / (length**0.5 * moved.double().norm().item() or 1.0),
            }
        rows.append(row)
        figures = "; ".join(
            f"{name} {row[name]['changed_percent']:.1f} % changed, projection "
            f"{row[name]['projection']:.3f}, cosine {row[name]['cosine']:.3f}"
            for name in ("exact", "seen")
        )
        print(f"{kind:<30} {figures}", flush=True)
    return rows


def compare_runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a small network from scratch for several seeds, each kind of weights on the same."""
    start = {
        "model": {"d_model": 64, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 192},
        "vocab_size": 512,
    }
    return _compare_losses(options, start, 4, options.kinds)


def compare_frozen(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Post-train tiny-llada with adapters for several seeds, over each kind of frozen weights."""
    return _compare_losses(options, {"init_from": "asset:tiny-llada"}, 1, list(FROZEN))


def _compare_losses(
    options: argparse.Namespace, start: dict[str, Any], rows_per_step: int, kinds: list[str]
) -> list[dict[str, Any]]:
    """Compare the last losses of kinds of weights with those of the first kind."""
    steps, reference = options.steps, kinds[0]
    phase = {"sequence_length": options.length, "num_steps": steps}
    values = COMMON | {
        **start,
        "phases": [{**phase, "rows_per_step": rows_per_step}],
        **{"learning_rate": 1e-3, "warmup_steps": max(1, steps // 20), "min_mask_ratio": 0.1},
        **dict(parse_override(override) for override in options.set),
    }
    is_main = os.environ.get("RANK", "0") == "0"
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(options.seeds):
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(kind, {**values, "seed": seed}, folder)
                losses = train(trainer)
            found[kind].append(last_quarter(losses))
            if is_main:
                print(
                    f"seed {seed} {kind:<30} {losses[0]:.4f} -> {found[kind][-1]:.4f}", flush=True
                )
    spread = statistics.stdev(found[reference])
    rows = []
    for kind, losses in found.items():
        differences = [a - b for a, b in zip(losses, found[reference], strict=True)]
        mean, largest = statistics.fmean(differences), max(map(abs, differences))
        rows.append(
            {"kind": kind, "losses": losses, "mean_difference": mean, "largest_difference": largest}
            | {f"spread_of_{reference}": spread, "within_spread": largest <= spread}
        )
        if is_main:
            print(
                f"{kind:<30} mean loss {statistics.fmean(losses):.4f}, difference to {reference} "
                f"{mean:+.4f} (largest {largest:.4f}); spread over seeds {spread:.4f}"
            )
    return rows


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("updates", "runs", "frozen"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--seeds", type=int, default=3, help="of runs; at least 2")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--set", nargs="*", default=[], help="recipe keys, key=value")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    options.kinds = ["float32", *(kind for kind in options.kinds if kind != "float32")]
    compare = {"updates": compare_updates, "runs": compare_runs, "frozen": compare_frozen}
    rows = compare[options.what](options)
    if os.environ.get("RANK", "0") == "0" and options.record is not None:
        shape = {name: getattr(options, name) for name in ("steps", "length", "seeds")}
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        record = describe_run() | {"what": options.what, **shape, "processes": processes}
        write_record(options.record, record | {"rows": rows})
    stop_processes()


if __name__ == "__main__":
    main()
