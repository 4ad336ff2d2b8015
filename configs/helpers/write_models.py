"""Writes what follows from the table of models: configs/models/*.py and the table of the docs.

    python -m configs.helpers.write_models        # or: make model-configs

OpenCompass finds a model by the name of a file, so that every name needs one. A test compares them
with what this writes. Runs without OpenCompass.
"""

from pathlib import Path

from .model_facts import known_models
from .model_variants import list_variants

CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = CHECKOUT / "configs" / "models"
DOCS = CHECKOUT / "docs" / "models.md"
START, END = "<!-- written by make model-configs -->", "<!-- end -->"

TEMPLATE = '''"""`--models {name}`; written by `make model-configs`."""

from mmengine.config import read_base

with read_base():
    from ..helpers.models import models_of_name as __models_of_name

models = __models_of_name("{name}")
'''


def model_files() -> dict[str, str]:
    """Return every file's text by its name without the ending."""
    return {name: TEMPLATE.format(name=name) for name in list_variants()}


def docs_table() -> str:
    """Return the table of models in Markdown."""
    lines = [
        "| `--models` | checkpoint | kind | trained length | with a scaling: `--models` |",
        "|---|---|---|---|---|",
    ]
    for name, facts in known_models.items():
        scaled = [key for key, (model, _) in list_variants().items() if model == name != key]
        kind = f"{facts['kind']}, {'chat' if facts['chat'] else 'base'}"
        names = ", ".join(f"`{key.removeprefix(name)}`" for key in scaled)
        lines.append(
            f"| `{name}` | {facts['path']} | {kind} | {facts['trained_length']:,} | {names} |"
        )
    return "\n".join(lines)


def generation_table() -> str:
    """Return the papers' generation settings in Markdown."""
    lines = [
        "| model | benchmark | new tokens | block | steps | paper's precision |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in known_models.items():
        for benchmark, values in facts["generation"].items():
            cells = [values.get(key, "-") for key in ("max_out_len", "block_length", "num_steps")]
            row = [f"`{name}`", benchmark, *cells, facts.get("paper_dtype", "-")]
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def docs_text(text: str) -> str:
    """Return the page with its tables put in anew.

    Args:
        text: The page as it is.
    """
    parts = text.split(START)
    tables = [docs_table(), generation_table()]
    rests = [part.split(END, 1)[1] for part in parts[1:]]
    filled = [f"{START}\n{t}\n{END}{rest}" for t, rest in zip(tables, rests, strict=True)]
    return parts[0] + "".join(filled)


def main() -> None:
    """Write the files, and remove those of names that are no more."""
    files = model_files()
    for path in MODELS.glob("[!_]*.py"):
        if path.stem not in files:
            path.unlink()
    for name, text in files.items():
        (MODELS / f"{name}.py").write_text(text, encoding="utf-8")
    DOCS.write_text(docs_text(DOCS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
