"""Tables of what post-training takes and what low precision changes in it."""

from __future__ import annotations

from documented.markdown import fill, grid, make, number_rows
from documented.records import read_record
from documented.registry import table

#: Kinds of weights, in the order of low_precision.py.
PRECISIONS = (
    "float32",
    "bfloat16 with a low half; float32",
    "bfloat16 with a low half; bfloat16",
    "bfloat16 with a low half; 8 bit",
    "bfloat16; bfloat16, as up to 0.2.0",
    "bfloat16, rounded at random; float32",
)
#: What a step took, in three tables.
RATES = ("{seconds_a_step:.4g}", "{tokens_per_second:,.0f}", "{mfu:.1%}")
RATE_HEADINGS = ("s a step", "tokens a second", "MFU")
MEMORY = "{planned_gb:.1f} / {peak_reserved_gb:.1f} / {peak_allocated_gb:.1f}"
MEMORY_HEADING = "planned / reserved / allocated GB"


@table("finetune_speed")
def speed() -> str:
    """Return the speed and memory of steps, by method and packing."""
    lora = ("LoRA, one document", "LoRA, `direct`: one attention over the row",
            "LoRA, `adaptive`: four documents of 16K")  # fmt: skip
    whole = ("all weights, FSDP2 and Ulysses",)
    return grid(
        ["", "tokens a row", "GPUs", *RATE_HEADINGS, MEMORY_HEADING],
        number_rows("finetune_speed_h100.json", lora)
        | number_rows("finetune_speed_two_h100.json", whole),
        ["{length:,}", "{processes}", *RATES, MEMORY],
    )


@table("finetune_float8")
def float8() -> str:
    """Return the speed and memory of steps whose frozen weights are held in float8."""
    record = "finetune_speed_float8_h200.json#/rows/"
    return grid(
        ["frozen weights", *RATE_HEADINGS, MEMORY_HEADING],
        {
            "16 bits, `keep_attention`": f"{record}0/",
            "float8, `keep_attention`": f"{record}1/",
            "float8, `keep_projections`": f"{record}2/",
            "float8, `keep_projections`, `keep_mlp: 32`": f"{record}3/",
        },
        [*RATES, MEMORY],
    )


@table("finetune_long_rows")
def long_rows() -> str:
    """Return what steps on long rows were planned to take and took; a dash where none was run."""
    rows = []
    for number, row in enumerate(read_record("finetune_long_rows.json")["rows"]):
        base, whole = f"finetune_long_rows.json#/rows/{number}/", row["document"] == row["length"]
        kept = "kept" if row["keeps_attention"] else "computed again"
        measured = ["-"] * 4
        memory, host = "{planned_gb:.0f}", "{planned_host_gb:.0f}"
        if "seconds_a_step" in row:
            measured = [*RATES, "{compile_seconds:.0f}"]
            memory += " / {peak_reserved_gb:.0f} / {peak_allocated_gb:.0f}"
            host += " / {host_gb:.0f}"
        documents = "one" if whole else f"{row['length'] // row['document']} of {{document:,}}"
        label = ("LoRA, " if "lora" in row["case"] else "") + f"attention {kept}"
        if row["planned_host_gb"]:
            label += ", offloaded"
        cells = [label, "{processes}", "{length:,}", documents, *measured, memory, host]
        rows.append([fill(base, cell) for cell in cells])
    return make(["", "GPUs", "tokens a row", "documents", *RATE_HEADINGS, "s to compile",
                 "GB a GPU", "host GB"], rows)  # fmt: skip


@table("optimizer_step")
def optimizer_step() -> str:
    """Return memory and time of an optimiser's step by kind of weights."""
    record = "optimizer_step_h200.json"
    return grid(
        ["weights; moments; step", "bytes a weight", "GB", "ms a step", "of float32's"],
        number_rows(record, [row["kind"] for row in read_record(record)["rows"]]),
        ["{held_bytes_a_weight:.0f}", "{held_gb:.1f}", "{seconds_a_step times 1000:.0f}",
         "{time_ratio:.2f}"],
    )  # fmt: skip


@table("low_precision_updates")
def low_precision_updates() -> str:
    """Return how near the updates of each kind of weights come to the exact ones."""
    figures = ("changed_percent:.1f}%", "projection:.3f}", "cosine:.3f}")
    return grid(
        ["weights; moments", "exact: changed", "projection", "cosine",
         "seen: changed", "projection", "cosine", "loss of the last 150 steps"],
        number_rows("low_precision_updates_h200.json", PRECISIONS),
        [*(f"{{{part}/{figure}" for part in ("exact", "seen") for figure in figures),
         "{last_loss:.3f}"],
    )  # fmt: skip


@table("low_precision_runs")
def low_precision_runs() -> str:
    """Return how far the losses of whole runs are from float32's."""
    return grid(
        ["weights; moments", "mean difference to float32", "largest",
         "float32's spread over seeds"],
        number_rows("low_precision_runs_two_h200.json", (*PRECISIONS[:2], *PRECISIONS[3:5])),
        ["{mean_difference:+.4f}", "{largest_difference:.4f}", "{spread_of_float32:.4f}"],
    )  # fmt: skip


@table("low_precision_frozen")
def low_precision_frozen() -> str:
    """Return how far the losses of runs are whose frozen weights are rounded."""
    return grid(
        ["frozen weights", "mean difference", "largest", "spread over seeds"],
        number_rows("low_precision_frozen_cpu.json", ("not rounded", "float8")),
        ["{mean_difference:+.4f}", "{largest_difference:.4f}", "{spread_of_unrounded:.4f}"],
    )
