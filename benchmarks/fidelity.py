"""What each fast mode costs on the tiny models: agreement and score, on NIAH and RULER's groups.

    python benchmarks/fidelity.py              # some minutes on a CPU
    python benchmarks/fidelity.py --limit 1    # a look

The reference is the exact sampler, one token a step; it and every mode are a run of their own in
--work-dir. Shipped defaults follow from this record: a mode that loses more than 0.5 points on any
group is off unless asked for. Writes one record.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from recording import ROOT, describe_run, write_record

from opencompass_llada.redaction import chosen_variables

MODES: dict[str, dict[str, Any]] = {
    "prompt": {"cache": {"type": "prompt"}},
    "prompt, float8": {"cache": {"type": "prompt", "dtype": "float8"}},
    "prompt, never refreshed": {"cache": {"type": "prompt", "refresh": "never"}},
    "dual": {"cache": {"type": "dual"}},
    "threshold 0.9": {"acceptance": {"type": "threshold", "value": 0.9}},
    "factor 1": {"acceptance": {"type": "factor", "value": 1.0}},
    "entropy bound 0.1": {"acceptance": {"type": "entropy_bound", "value": 0.1}},
    "prompt + threshold 0.9": {"cache": "prompt", "acceptance": "threshold"},
    "early stop": {"early_stop": True},
}
REFERENCE = {"block_length": 16, "num_steps": None}
NIAH = {"LLADA_LENGTHS": "512,1024", "LLADA_DEPTHS": "0,25,50,75,100", "LLADA_REPEATS": "5"}
_SHORT = (
    "niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,niah_multikey_3,"
    "niah_multivalue,niah_multiquery,vt"
)
RULER = {"LLADA_LENGTHS": "512", "LLADA_SAMPLES": "6", "LLADA_TASKS": _SHORT}
# The smallest prompt of common words and its answer have 1,106 tokens.
AGGREGATION = {"LLADA_LENGTHS": "1110", "LLADA_SAMPLES": "12", "LLADA_TASKS": "cwe,fwe"}
GROUPS = {
    "NIAH 512": "niah_embedded_*length512_*",
    "NIAH 1024": "niah_embedded_*length1024_*",
    "RULER NIAH": "ruler_niah_*",
    "RULER VT": "ruler_vt*",
    "RULER CWE+FWE": "ruler_[cf]we*",
}


def read(name: str, settings: dict[str, str]) -> Any:
    """Read a shipped config under settings of its own, whatever the user has set."""
    from opencompass_llada.runs.command_line import read_config

    with mock.patch.dict(os.environ):
        for variable in chosen_variables():
            del os.environ[variable]
        os.environ.update(settings, LLADA_SCALING="none")
        return read_config(str(ROOT / "configs" / name))


def main() -> None:
    """Run every mode beside the reference and write the record."""
    import fnmatch

    from opencompass_llada.runs.fidelity import (
        apply_setting,
        compare,
        find_model,
        limit_samples,
        pair_runs,
        start_run,
        write_table,
    )

    parser = argparse.ArgumentParser(description="What each fast mode costs on the tiny models.")
    parser.add_argument("--limit", type=int, help="samples of each data set")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks/records/fidelity.json")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/fidelity_modes"))
    given = parser.parse_args()
    configs = [
        read("eval_llada_niah.py", NIAH),
        read("eval_llada_ruler.py", RULER),
        read("eval_llada_ruler.py", AGGREGATION),
    ]
    datasets = [dict(dataset) for config in configs for dataset in config["datasets"]]
    if given.limit is not None:
        datasets = [limit_samples(dataset, given.limit) for dataset in datasets]
    base = find_model(configs[0])
    reference = start_run([apply_setting(base, REFERENCE)], datasets, given.work_dir / "reference")
    record: dict[str, Any] = {**describe_run(), "reference": REFERENCE}
    record["results"] = {}
    for mode in given.modes:
        model = apply_setting(base, {**REFERENCE, **MODES[mode]})
        run = start_run([model], datasets, given.work_dir / mode.replace(" ", "_"))
        pairs = pair_runs((reference, run))
        found = {}
        for group, pattern in GROUPS.items():
            own = [pairs[name] for name in pairs if fnmatch.fnmatchcase(name, pattern)]
            sides = zip(*own, strict=True)
            found[group] = compare(*(pd.concat(side, ignore_index=True) for side in sides))
        record["results"][mode] = found
        print(f"{mode}\n{write_table(found)}", flush=True)
        write_record(given.record, record)
    print(f"\nwrote {given.record}")


if __name__ == "__main__":
    main()
