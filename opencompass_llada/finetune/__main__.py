"""Trains by a recipe: ``python -m opencompass_llada.finetune RECIPE.yaml [key=value ...]``.

With several devices: ``torchrun --nproc_per_node N -m opencompass_llada.finetune RECIPE.yaml``.
"""

import argparse
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from opencompass_llada.faults import guard
from opencompass_llada.finetune.checkpoints import SaveError
from opencompass_llada.finetune.next_command import describe_evaluation
from opencompass_llada.finetune.recipe_file import load_recipe
from opencompass_llada.finetune.resources import check_machine, claim_output
from opencompass_llada.finetune.trainer import Trainer
from opencompass_llada.processes import stop_processes


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; whatever nobody foresaw ends in one paragraph (`faults.guard`).

    Returns the exit status: 0; 2 for a wrong recipe (text, output folder and memory included); 1
    where training failed; 128 and the signal's number where one stopped it.
    """
    logs: list[Path] = []  # where a fault is written, once the recipe has said it
    return guard(
        lambda: _train(arguments, logs),
        program="opencompass_llada.finetune",
        log_folder=lambda: logs[0] if logs else None,
    )


def _train(arguments: list[str] | None, logs: list[Path]) -> int:
    parser = argparse.ArgumentParser(prog="python -m opencompass_llada.finetune")
    parser.add_argument("recipe", help="YAML file, see configs/finetune/")
    parser.add_argument(
        "overrides", nargs="*", help="key=value for keys of the recipe, group.key=value for groups"
    )
    options = parser.parse_args(arguments)
    is_main = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if is_main else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    logger = logging.getLogger(__name__)
    with ExitStack() as stack:
        stack.callback(stop_processes)
        try:
            recipe = load_recipe(options.recipe, options.overrides)
            check_machine(recipe)
            if is_main:
                stack.enter_context(claim_output(recipe))
            logs.append(Path(recipe.output_dir).absolute() / "logs")
            trainer = Trainer(recipe)
        except (ValueError, ImportError) as error:
            parser.exit(2, f"{error}\n")
        try:
            folder = trainer.train()
        except (FloatingPointError, SaveError) as error:
            logger.error("%s", error)
            return 1
        except (torch.OutOfMemoryError, MemoryError) as error:
            logger.error(
                "The memory does not suffice (%s). micro_rows=1 and activation_checkpointing=true "
                "save the most. On CUDA, memory_limit below what the plan in the log says names "
                "settings that need less. The same command then goes on.",
                str(error).partition("\n")[0] or type(error).__name__,
            )
            return 1
    logger.info("Checkpoint written to %s", folder)
    if is_main and trainer.stopped_by is None:
        logger.info("%s", describe_evaluation(recipe, folder, trainer.start_length))
    return 0 if trainer.stopped_by is None else 128 + trainer.stopped_by


if __name__ == "__main__":
    sys.exit(main())
