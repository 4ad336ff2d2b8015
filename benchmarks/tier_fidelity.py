"""What float8 and sparse passes cost on the shipped models: scores, perplexity, error by layer.

    python benchmarks/tier_fidelity.py                    # 40 minutes on two cores
    python benchmarks/tier_fidelity.py --models tiny_llada --limit 1    # a look
    python benchmarks/tier_fidelity.py --times 40 --batch-size 32 --parallel 4    # on a GPU
    python benchmarks/tier_fidelity.py --times 40 --compare --work-dir FOLDER  # what ended in one

Each model runs all tiers on the same samples in one run (needles, RULER's groups, LongBench), each
compared with the same passes in exact arithmetic as `opencompass-llada fidelity --sweep` does. The
prompt's keys and values are kept, so that one full pass a block carries what a tier loses; what the
cache itself costs is in fidelity.json. All is float32 but for what a tier rounds. A CPU computes
the tiers in their plain forms, whose numbers are those of the kernels but for the order of sums; a
GPU computes with the kernels. The seconds mean nothing. Perplexity, of float8 products alone since
texts are scored exactly, is paired by text. The error by layer is that of the residual stream, of
its norm, for a needle's prompt. Writes a record a model; tiny models prove the code, not what
LLaDA-8B loses.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from context_perplexity import HELD_OUT_SEED, compare_contexts, measure_contexts, read_text
from fidelity import AGGREGATION, NIAH, RULER, read
from model_shapes import needle_prompt
from needle_grid import load_engine
from recorded_parts import RecordedParts
from recording import ROOT
from torch import Tensor

from opencompass_llada.devices import choose_device
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.inference import (
    FastNetwork,
    PassOptions,
    PassServer,
    PrefillOptions,
    quantise_network,
)
from opencompass_llada.runs.fidelity import apply_setting, find_model, limit_samples, start_run
from opencompass_llada.runs.frontier import compare_settings, write_frontier

PRODUCTS = {"precision": "float8"}
CACHED = {"cache": {"type": "prompt"}}
ATTENTION = {"prefill": {"type": "float8", "shortest": 1}}


def sparse(keep: float) -> dict[str, Any]:
    """Return the setting of float8 with a share of the keys."""
    prefill = {"type": "sparse", "keep": keep, "shortest": 1, "dense_tail": 128, "near": 1}
    return {**CACHED, **PRODUCTS, "prefill": prefill}


#: Exact arithmetic first. Block-causal models have products in float8 alone.
TIERS: dict[str, dict[str, Any]] = {
    "exact": CACHED,
    "products": {**CACHED, **PRODUCTS},
    "float8": {**CACHED, **PRODUCTS, **ATTENTION},
    **{f"sparse-{keep}": sparse(keep) for keep in (0.5, 0.3, 0.2, 0.1)},
}
TIERS_OF_BLOCKS: dict[str, dict[str, Any]] = {"exact": {}, "products": PRODUCTS}
#: Settings of the main configs, by the config, and the patterns of the groups' data sets.
LONG_NIAH = {**NIAH, "LLADA_LENGTHS": "1024,4096", "LLADA_REPEATS": "3"}
LONGER_NIAH = {**NIAH, "LLADA_LENGTHS": "8192,16384", "LLADA_REPEATS": "1"}
LONG_RULER = {**RULER, "LLADA_LENGTHS": "4096", "LLADA_SAMPLES": "1"}
# The smallest prompt of common words and its answer have 4,337 tokens there.
LONG_AGGREGATION = {**AGGREGATION, "LLADA_LENGTHS": "4352", "LLADA_SAMPLES": "2"}
LONGBENCH = {"LLADA_DATA": "embedded"}
SHORT_WORK = [
    ("eval_llada_niah.py", NIAH),
    ("eval_llada_ruler.py", RULER),
    ("eval_llada_ruler.py", AGGREGATION),
    ("eval_llada_long.py", {**LONGBENCH, "LLADA_SAMPLES": "4"}),
]
WORK: dict[str, list[tuple[str, Mapping[str, str]]]] = {
    "tiny_llada": SHORT_WORK,
    "tiny_block": SHORT_WORK,
    "tiny_llada_long": [
        ("eval_llada_niah.py", LONG_NIAH),
        ("eval_llada_niah.py", LONGER_NIAH),
        ("eval_llada_ruler.py", LONG_RULER),
        ("eval_llada_ruler.py", LONG_AGGREGATION),
        ("eval_llada_long.py", {**LONGBENCH, "LLADA_SAMPLES": "1"}),
    ],
}
GROUPS = {
    **{
        f"NIAH {length}": f"niah_embedded_*length{length}_*"
        for length in (512, 1024, 4096, 8192, 16384)
    },
    "RULER NIAH": "ruler_niah_*",
    "RULER VT": "ruler_vt*",
    "RULER CWE+FWE": "ruler_[cf]we*",
    "LongBench": "longbench_*",
}
CONTEXTS = {"tiny_llada": (256, 512), "tiny_llada_long": (1024, 4096), "tiny_block": (256, 512)}
#: Tokens of a block of the sampler, which is not used.
BLOCKS = {"tiny_block": 4}


class Bench(RecordedParts):
    """One model."""

    def __init__(self, name: str, given: argparse.Namespace, path: Path) -> None:
        """Keep what was asked for."""
        super().__init__(choose_device(None), given.limit_seconds, path)
        self.name, self.given = name, given
        self.asset = "asset:" + name.replace("_", "-")
        # Reading takes the environment, which threads share.
        self.configs = [
            read(config, {"LLADA_MODELS": name, **multiply_samples(variables, given.times)})
            for config, variables in WORK[name]
        ]
        self.groups = {group: GROUPS[group] for group in given.groups}
        tiers = TIERS_OF_BLOCKS if name == "tiny_block" else TIERS
        self.tiers = {tier: tiers[tier] for tier in tiers if tier in (*given.tiers, "exact")}

    def scores(self) -> dict[str, Any]:
        """Run all tiers and compare each with the exact one, by group; a run a benchmark."""
        places = range(len(self.configs))
        if self.given.compare:
            places = [place for place in places if self._folder(place).is_dir()]
        with ThreadPoolExecutor(self.given.parallel) as pool:
            parts = [part for part in pool.map(self._run, places) if part is not None]
        found: dict[str, Any] = {}
        for run, names, datasets in parts:
            for group, pattern in self.groups.items():
                if own := fnmatch.filter(datasets, pattern):
                    compared = self._compare(run, names, own)
                    if compared:
                        found[group] = compared
        return found

    def _compare(self, run: Path, names: dict[str, str], datasets: list[str]) -> dict[str, Any]:
        """Compare each tier with the exact one over the data sets that both have ended."""
        ended = {
            tier: {name for name in datasets if (run / "results" / abbr / f"{name}.json").is_file()}
            for tier, abbr in names.items()
        }
        found: dict[str, Any] = {}
        for tier in names:
            both = sorted(ended["exact"] & ended[tier])
            if not both:
                continue
            table = compare_settings(run, {t: names[t] for t in ("exact", tier)}, both)
            about = f"{self.name}, {both[0]} and {len(both) - 1} more"
            print(f"{about}\n{write_frontier(table)}", flush=True)
            rows = table.to_dict("index")
            found[tier] = {
                **rows[tier],
                "exact_score": rows["exact"]["score"],
                "data_sets": len(both),
                "of_data_sets": len(datasets),
            }
        return found

    def _folder(self, place: int) -> Path:
        return self.given.work_dir / self.name / str(place)

    def _run(self, place: int) -> tuple[Path, dict[str, str], list[str]] | None:
        """Run a benchmark; return the run's folder, the models by tier, and the data sets.

        None if none of its data sets is asked for.
        """
        config = self.configs[place]
        datasets = [
            dict(dataset)
            for dataset in config["datasets"]
            if any(fnmatch.fnmatch(dataset["abbr"], pattern) for pattern in self.groups.values())
        ]
        if not datasets:
            return None
        if self.given.limit is not None:
            datasets = [limit_samples(dataset, self.given.limit) for dataset in datasets]
        base = find_model(config)
        if self.given.batch_size is not None:  # which changes no answer
            base = {**base, "batch_size": self.given.batch_size}
        names = {tier: f"{base['abbr']}-{tier}" for tier in self.tiers}
        models = [
            {**apply_setting(base, setting), "abbr": names[tier]}
            for tier, setting in self.tiers.items()
        ]
        folder = self._folder(place)
        if self.given.compare:
            run = max(f for f in folder.iterdir() if (f / "configs").is_dir())
        else:
            run = start_run(models, datasets, folder)
        return run, names, [dataset["abbr"] for dataset in datasets]

    def perplexity(self) -> dict[str, Any]:
        """Pair the perplexity of exact products with that of float8 ones, text by text."""
        figures = {}
        for tier, passes in (("exact", PassOptions()), ("products", PassOptions(**PRODUCTS))):
            engine, tokenizer = load_engine(self.asset, BLOCKS.get(self.name, 16), 4, None, passes)
            tokens = read_text(
                TrainingTokenizer(
                    tokenizer=tokenizer, end_token_id=tokenizer.eos_token_id, mask_token_id=None
                ),
                TextSource(generated_seed=HELD_OUT_SEED, num_documents=60),
            )
            figures[tier] = measure_contexts(
                engine,
                tokens.tokens,
                CONTEXTS[self.name],
                targets=64,
                texts=8,
                draws=8,
                batch_tokens=131072,
            )
        differences = compare_contexts(figures["products"], figures["exact"])
        return {
            length: {
                **differences[length],
                **{tier: own[length]["perplexity"] for tier, own in figures.items()},
            }
            for length in differences
        }

    def layers(self) -> dict[str, Any]:
        """Return the residual stream's error after each layer, of the exact one's norm."""
        found: dict[str, Any] = {}
        for length in CONTEXTS[self.name]:
            states = {tier: self._states(length, setting) for tier, setting in self.tiers.items()}
            exact = states.pop("exact")
            found[str(length)] = {
                tier: [_error(a, b) for a, b in zip(own, exact, strict=True)]
                for tier, own in states.items()
            }
        return found

    def _states(self, length: int, setting: Mapping[str, Any]) -> list[Tensor]:
        """Return the stream before the first layer's norm and after each layer, on the CPU."""
        engine, tokenizer = load_engine(self.asset, BLOCKS.get(self.name, 16), 4, None)
        network = engine.model
        if setting.get("precision"):
            quantise_network(network)
        ids = needle_prompt(length, tokenizer)
        fast = FastNetwork(network)
        recorder = Recorder(fast.ops)
        fast.ops = recorder
        server = PassServer(fast, prefill=PrefillOptions(**setting.get("prefill", {})))
        session = server.open([len(ids)], block_length=16, cache_dtype=None, passes=1)
        where = torch.tensor([[0]], device=self.device)
        session.full_pass(torch.tensor([ids], device=self.device), where, keep=False)
        # Two norms a layer, and the last one, of what is wanted alone.
        return recorder.states[:-1:2]

    def run(self) -> None:
        """Run the parts."""
        if not self.given.compare:
            self.part("layers", self.layers)
            self.part("perplexity", self.perplexity)
        self.part("scores", self.scores)


class Recorder:
    """A network's element-wise operations that keep the residual stream."""

    def __init__(self, ops: Any) -> None:
        """Wrap them."""
        self._ops, self.states = ops, list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        """Return what is not recorded."""
        return getattr(self._ops, name)

    def add_norm(self, *given: Any) -> Any:
        """Add, keep and normalise."""
        return self._keep(self._ops.add_norm(*given))

    def add_norm_rows(self, *given: Any) -> Any:
        """Do the same, to float8 rows."""
        return self._keep(self._ops.add_norm_rows(*given))

    def _keep(self, found: Any) -> Any:
        self.states.append(found[0].detach().to("cpu", torch.float32, copy=True))
        return found


def multiply_samples(variables: Mapping[str, str], times: int) -> dict[str, str]:
    """Return settings of a main config with so many times their samples of each data set."""
    counts = ("LLADA_REPEATS", "LLADA_SAMPLES")
    return {
        name: str(times * int(value)) if name in counts else value
        for name, value in variables.items()
    }


def _error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def main() -> int:
    """Run the models and write their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--limit", type=int, help="samples of each data set")
    parser.add_argument("--times", type=int, default=1, help="so many times the usual samples")
    parser.add_argument("--compare", action="store_true", help="runs in --work-dir, none anew")
    parser.add_argument("--batch-size", type=int, help="rows at a time, if not the config's")
    parser.add_argument("--parallel", type=int, default=1, help="benchmarks at a time")
    parser.add_argument("--limit-seconds", type=float, default=3600.0)
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks/records")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/tier_fidelity"))
    given = parser.parse_args()
    failed = False
    for name in given.models:
        bench = Bench(name, given, given.records / f"tier_fidelity_{name}.json")
        bench.run()
        failed |= bool(bench.record["failed"])
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
