"""RULER of one checkpoint by task and length, on a machine without OpenCompass.

    python benchmarks/ruler_grid.py asset:tiny-llada-long --lengths 512 2048 --record ruler.json

The prompts, sampler and rule of `finetune_study`'s cells, so that a checkpoint from before or after
post-training stands beside them; without question answering. Writes percent by length and task,
None for a task that does not fit a length.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from answering import Answerer, score_set
from needle_grid import add_scaling_option, read_scaling
from prompt_sets import PromptPlan, prepare_sets, read_set
from recording import ROOT, describe_run, exit_on_error, mean_needle_tasks, write_record

from opencompass_llada.assets import resolve_path


def main(arguments: list[str] | None = None) -> None:
    """Answer, print the means and write the record after each length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="a folder or asset:NAME of a masked diffusion model")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512])
    parser.add_argument("--samples", type=int, default=15, help="of each task")
    parser.add_argument(
        "--prompts", type=Path, default=Path("outputs/study_prompts"), help="folder kept"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that make prompts")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="answered at once")
    add_scaling_option(parser)
    parser.add_argument("--record", type=Path, default=ROOT / "ruler_grid.json")
    given = parser.parse_args(arguments)
    plans = [
        PromptPlan(kind="ruler", length=length, samples=given.samples, checkpoint=given.checkpoint)
        for length in given.lengths
    ]
    start, scaling = time.perf_counter(), read_scaling(given)
    paths = prepare_sets(plans, given.prompts, given.workers)
    model = Answerer.load(resolve_path(given.checkpoint), given.batch_tokens, scaling)
    record = describe_run()
    record |= {"checkpoint": given.checkpoint, "scaling": scaling}
    record |= {"samples_a_task": given.samples, "ruler": {}}
    for plan, path in zip(plans, paths, strict=True):
        scores = score_set(model, read_set(path), "ruler")
        record["ruler"][str(plan.length)] = scores
        record["seconds"] = round(time.perf_counter() - start, 1)
        write_record(given.record, record)
        mean = mean_needle_tasks(scores, plan.length)
        print(f"{plan.length:>7} tokens: eight needle tasks {mean:.1f} %")
    print(f"wrote {given.record}")


if __name__ == "__main__":
    exit_on_error(main)
