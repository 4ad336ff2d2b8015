"""Tables of time and memory: generation, passes and kernels, and the making of data sets."""

from __future__ import annotations

from documented.markdown import fill, grid, make
from documented.records import look_up, read_record
from documented.registry import table

GENERATION = "inference_h100.json#/run "
BLOCK_CAUSAL = "block_causal_h200.json#/"
EXPERTS = "block_causal_experts_h200.json#/"
REDUCED = "reduced_passes_h200.json#/"
REDUCED_LENGTHS = ("4096", "8192", "16384", "32768", "65536", "131072")
REDUCED_BLOCKS = "3840+256"
#: Row's label -> the variant's name in library_kernels.py's record.
LIBRARIES = {
    "plain network, eager": "plain",
    "plain network, torch.compile": "compiled default",
    "plain network, torch.compile, reduce-overhead": "compiled reduce-overhead",
    "ours": "ours",
    "ours, operations of PyTorch": "ours, operations of PyTorch",
    "ours, operations of liger-kernel": "ours, operations of liger-kernel",
    "a step of 32 tokens against the cache, ours": "small pass, ours",
    "a step of 32 tokens, without graphs": "small pass, without graphs",
}


@table("time")
def generation() -> str:
    """Return the times of generation on one H100; goals, set before measuring, in parentheses."""
    goals = {"4K+32 prompt": ("11", ""), "32K+32 prompt": ("35", "1.25"),
             "64K+32 prompt": ("42", "1.15"), "128K+32 prompt-fp8": ("", "1.2"),
             "32K+64 prompt": ("55", ""), "16K+512 dual": ("35", ""),
             "16K+512 prompt": ("35", "")}  # fmt: skip
    shown = {"4K+32": ("exact", "prompt"), "32K+32": ("prompt", "prompt-fp8"),
             "32K+32/16": ("prompt",), "64K+32": ("prompt", "prompt-fp8"),
             "128K+32": ("prompt-fp8",), "32K+64": ("prompt",),
             "16K+512": ("dual", "prompt")}  # fmt: skip
    rows = []
    for shape, modes in shown.items():
        for mode in modes:
            base = f"{GENERATION}{shape.replace('/', '~1')}/"
            goal = goals.get(f"{shape} {mode}", ("", ""))
            baseline, floor = (f" ({value})" if value else "" for value in goal)
            against = "{against_baseline:#.3g}" if shape != "128K+32" else "out of memory"
            cells = ("{seconds:#.3g}", "{nfe}", against + baseline, "{against_floor:#.4g}" + floor,
                     "{peak_allocated_gb:.1f}")  # fmt: skip
            rows.append([
                shape.split("/")[0].replace("+", " + ") + fill(base, ", {shape/steps} steps"),
                mode.replace("-fp8", ", float8"),
                *(fill(f"{base}modes/{mode}/", cell) for cell in cells),
            ])  # fmt: skip
    return make(["tokens", "mode", "s", "NFE", "times as fast as the baseline (goal)",
                 "times one full pass (goal)", "GB"], rows)  # fmt: skip


@table("memory")
def memory() -> str:
    """Return what the caches of a generation were planned to take and took, GB."""
    bases = {
        f"{length} + 32, {kind} cached": f"{GENERATION}{length}+32/modes/{mode}/"
        for length, kind, mode in (
            ("32K", "bfloat16", "prompt"),
            ("32K", "float8", "prompt-fp8"),
            ("64K", "bfloat16", "prompt"),
            ("64K", "float8", "prompt-fp8"),
            ("128K", "float8", "prompt-fp8"),
        )
    }
    cells = ["{planned_gb:.1f}", "{peak_allocated_gb:.1f}"]
    return grid(["", "planned", "measured"], bases, cells)


@table("library_kernels")
def library_kernels() -> str:
    """Return milliseconds of a pass of ours and of what libraries offer, and times ours."""
    lengths = ("2048", "8192", "32768")
    rows = []
    for label, name in LIBRARIES.items():
        times = "" if "small" in name else " ({times_ours:.2f})"
        cell = "{seconds times 1000:.2f}" + times
        bases = (f"library_kernels_h200.json#/lengths/{length}/{name}/" for length in lengths)
        rows.append([label, *(fill(base, cell) for base in bases)])
    return make(["ms (times ours)", "2,048 tokens", "8,192", "32,768"], rows)


@table("reduced_passes")
def reduced_passes() -> str:
    """Return seconds of a generation by tier and prompt, and times as fast as in 16 bit."""
    shares = ("half", "0.3", "0.15")
    tiers = ("16 bit", "float8", *(f"float8, {share} of the keys" for share in shares))
    rows = []
    for tier in tiers:
        cells = []
        for length in (*REDUCED_LENGTHS, REDUCED_BLOCKS):
            if length == REDUCED_BLOCKS and tier.endswith("keys"):
                cells.append("")  # short enough to see all keys
                continue
            seconds = float(look_up(f"{REDUCED}{tier}/{length}/seconds"))
            exact = float(look_up(f"{REDUCED}16 bit/{length}/seconds"))
            cells.append(
                f"{seconds:.3g}" + ("" if tier == "16 bit" else f" ({exact / seconds:.2f})")
            )
        rows.append([tier, *cells])
    lengths = (f"{int(length) // 1024}K" for length in REDUCED_LENGTHS)
    return make(["seconds (times as fast)", *lengths, "3,840 + 256 in blocks"], rows)


@table("block_causal")
def block_causal() -> str:
    """Return SDAR's own sampler beside ours, by block length."""
    rows = []
    for block in (4, 16, 32):
        theirs, ours = f"{BLOCK_CAUSAL}published block {block}/", f"{BLOCK_CAUSAL}block {block}/"
        seconds = "{seconds:#.3g} ({prefill_seconds:#.3g})"
        each = "{seconds_a_pass times 1000:.1f}"
        cells = [fill(theirs, seconds), fill(ours, seconds + ", {passes} passes")]
        cells += [fill(ours, "{times_as_fast:#.3g}"), f"{fill(theirs, each)} / {fill(ours, each)}"]
        rows.append([str(block), *cells, fill(ours, "{planned_gb:.1f} / {peak_gb:.1f}")])
    return make(["block", "SDAR's own, s (its prompt's pass)", "ours, s (its prompt's pass)",
                 "times as fast (goal 5)", "ms a pass, theirs / ours", "GB, planned / measured"],
                rows)  # fmt: skip


@table("block_causal_prefill")
def block_causal_prefill() -> str:
    """Return the prompt's pass with blocks beside causal ones."""
    return grid(
        ["", "blocks of 4", "causal, in chunks", "causal, whole", "against causal (goal 1.2)"],
        {f"{length // 1024}K": f"{BLOCK_CAUSAL}prefill {length}/" for length in (32768, 131072)},
        ["{ours/seconds:#.3g}", "{causal, in chunks/seconds:#.3g}", "{causal, whole/seconds:#.3g}",
         "{against_causal:.2f}"],
    )  # fmt: skip


@table("block_causal_experts")
def block_causal_experts() -> str:
    """Return the rates of LLaDA2.0-mini's experts by tokens."""
    rows = []
    for label, name in (("dense", "dense"), ("grouped products", "grouped"),
                        ("with gathering and summing", "experts"),
                        ("with the router, too", "layer")):  # fmt: skip
        cell = f"{{operations_a_second/{name} times 1e-12:#.3g}} ({{of_dense/{name}:.2f}})"
        bases = (f"{EXPERTS}experts {tokens}/" for tokens in (32768, 8192, 32))
        rows.append([label, *(fill(base, cell) for base in bases)])
    headings = ["TFLOP/s (of dense; goal 0.5)", "32,768 tokens", "8,192 tokens", "32 tokens"]
    return make(headings, rows)


@table("ruler_build")
def ruler_build() -> str:
    """Return time and memory of making RULER's data sets."""
    rows = []
    for length, found in read_record("ruler_build_100_samples.json")["runs"].items():
        cells = [
            f"{sum(task['seconds'] for task in made['tasks'].values()):.1f} s, "
            f"{made['peak_memory'] - made['memory_before']:,} MiB"
            for made in found.values()
        ]
        rows.append([f"{int(length) // 1024}K", *cells])
    return make(["", "OpenCompass", "ours", "ours, from disk"], rows)
