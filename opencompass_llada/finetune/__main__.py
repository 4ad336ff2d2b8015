"""``python -m opencompass_llada.finetune RECIPE.yaml [key=value ...]``: train by a recipe."""

import argparse
import logging
import sys

from opencompass_llada.finetune.loop import Trainer
from opencompass_llada.finetune.recipe import load_recipe


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None for sys.argv.

    Returns:
        The exit status: 0, or 2 for a wrong recipe (text or output folder included).
    """
    parser = argparse.ArgumentParser(prog="python -m opencompass_llada.finetune")
    parser.add_argument("recipe", help="YAML file, see configs/finetune/")
    parser.add_argument("overrides", nargs="*", help="key=value for top-level keys of the recipe")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        trainer = Trainer(load_recipe(options.recipe, options.overrides))
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    folder = trainer.train()
    logging.getLogger(__name__).info("Checkpoint written to %s", folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
