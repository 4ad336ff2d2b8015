"""Makes the tables of docs/reference/models.md from the table of models."""

from opencompass_llada.families import generates_by
from opencompass_llada.runs.model_table import KNOWN_MODELS


def models_table() -> str:
    """Return the table of models in Markdown."""
    lines = [
        "| `--models` | checkpoint | kind | trained length | its scalings: `LLADA_SCALING` |",
        "|---|---|---|---|---|",
    ]
    for name, facts in KNOWN_MODELS.items():
        kind = str(generates_by(facts.family)).replace("_", " ")
        kind += ", chat" if facts.chat else ", base"
        scalings = ", ".join(f"`{text}`" for text in facts.scalings)
        lines.append(
            f"| `{name}` | {facts.path} | {kind} | {facts.trained_length:,} | {scalings} |"
        )
    return "\n".join(lines) + "\n"


def facts_table() -> str:
    """Return who sees whom, licences and sources in Markdown."""
    lines = ["| model | attention | licence | where read |", "|---|---|---|---|"]
    for name, facts in KNOWN_MODELS.items():
        blocks = f"blocks of {facts.block_length}, block-causal"
        seen = "bidirectional" if facts.block_length is None else blocks
        seen = "causal" if facts.is_autoregressive else seen
        if generates_by(facts.family) == "uniform_diffusion":
            seen = f"causal, in a canvas of {facts.block_length} bidirectional"
        lines.append(f"| `{name}` | {seen} | {facts.licence} | {facts.source} |")
    return "\n".join(lines) + "\n"


def generation_table() -> str:
    """Return the papers' generation settings in Markdown."""
    lines = [
        "| model | benchmark | new tokens | block | steps | paper's precision |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in KNOWN_MODELS.items():
        for benchmark, values in facts.generation.items():
            cells = [values.get(key, "-") for key in ("max_out_len", "block_length", "num_steps")]
            row = [f"`{name}`", benchmark, *cells, facts.paper_dtype or "-"]
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


PARTS = {"models": models_table, "model_facts": facts_table, "generation": generation_table}
