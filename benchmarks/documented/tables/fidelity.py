"""Tables of what fast modes and smaller numbers cost in scores, errors and nats."""

from __future__ import annotations

from documented.markdown import fill, make
from documented.records import read_record
from documented.registry import table

TIER_MODELS = ("tiny_llada", "tiny_llada_long", "tiny_block")
#: The largest loss, in points, of a mode that may be a preset.
MOST_LOST = 0.5


@table("fidelity")
def fast_modes() -> str:
    """Return what each fast mode costs: score difference, its interval, equal answers, passes."""
    results = read_record("fidelity.json")["results"]
    # Records from before 2026-11-28 have a bootstrap's intervals, which are too narrow.
    holds = "num_units" in results["prompt"]["NIAH 512"]
    interval = " ({difference_low:.1f} to {difference_high:.1f})" if holds else ""
    cell = "{score_difference:+.1f}" + interval + ", {answer_agreement:.0%}, {second_passes:.0f}"
    groups = list(results["prompt"])
    rows = [
        [mode, *(fill(f"fidelity.json#/results/{mode}/{group}/", cell) for group in groups)]
        for mode in results
    ]
    note = "" if holds else "\n(No intervals: the record is older than they are.)\n"
    losing = "; ".join(
        mode
        for mode, found in results.items()
        if min(group["score_difference"] for group in found.values()) < -MOST_LOST
    )
    same = all(
        found[group]["answer_agreement"] == 1 for found in results.values() for group in groups[:2]
    )
    note += f"\nThese modes lose more than {MOST_LOST} points on some group: {losing}.\n"
    note += (
        f"On needle in a haystack {'no mode changes' if same else 'some modes change'} an answer.\n"
    )
    return make(["mode", *groups], rows) + note


@table("preset")
def preset() -> str:
    """Return by what the sampler's preset was chosen: each mode's largest loss, and its speed."""
    rows = []
    for mode, groups in read_record("fidelity.json")["results"].items():
        worst = min(groups, key=lambda name: groups[name]["score_difference"])
        loss = groups[worst]["score_difference"]
        speeds = [own["speed_up"] for own in groups.values()]
        saved = [own["first_passes"] / own["second_passes"] for own in groups.values()]
        rows.append(
            [
                mode,
                f"{loss:+.1f} ({worst})" if loss < 0 else "none",
                *(f"{min(own):.1f} to {max(own):.1f}" for own in (speeds, saved)),
                "yes" if loss >= -MOST_LOST else "",
            ]
        )
    columns = ["largest loss, points", "times as fast (CPU)", "times fewer passes"]
    return make(["mode", *columns, f"at most {MOST_LOST}"], rows)


def tier_scores(model: str) -> str:
    """Return each tier's difference from the exact pass, points, with its interval, by group."""
    groups = read_record(f"tier_fidelity_{model}.json")["scores"]
    tiers = next(iter(groups.values()))
    rows = []
    for tier in tiers:
        cells = []
        for own in groups.values():
            found = own[tier]
            if tier == "exact":
                cells.append(f"{found['score']:.1f}")
                continue
            span = "" if found["difference_low"] is None else (
                f" [{found['difference_low']:.1f}, {found['difference_high']:.1f}]"
            )  # fmt: skip
            cells.append(f"{found['difference']:+.1f}{span}")
        rows.append([tier, *cells])
    named = [f"{name} (n {own['exact']['num_samples']})" for name, own in groups.items()]
    return make(["points", *named], rows)


for _model in TIER_MODELS:
    table(f"tiers_{_model}", _model)(tier_scores)


@table("tiers_many")
def many_samples() -> str:
    """Return what tiers change over many samples on a GPU: by model, group and tier."""
    rows = []
    for model in TIER_MODELS:
        groups = read_record(f"tier_fidelity_{model}_h200.json")["scores"]
        for group, tiers in groups.items():
            for tier, found in tiers.items():
                if tier == "exact":
                    continue
                ended = f"{found['data_sets']} of {found['of_data_sets']}"
                difference = f"{found['difference']:+.1f}"
                span = f"[{found['difference_low']:.1f}, {found['difference_high']:.1f}]"
                shown = (f"{found['num_samples']:,}", ended, f"{found['exact_score']:.1f}")
                rows.append([model.replace("_", "-"), group, tier, *shown, f"{difference} {span}"])
    return make(
        ["model", "group", "tier", "n", "data sets", "exact", "points more than exact"], rows
    )


@table("tiers_vt")
def variable_tracking() -> str:
    """Return what each tier, down to a tenth of the keys, changes in variable tracking."""
    (tiers,) = read_record("tier_fidelity_vt_cpu.json")["scores"].values()
    rows = []
    for tier, found in tiers.items():
        span = f"[{found['difference_low']:.1f}, {found['difference_high']:.1f}]"
        change = "" if tier == "exact" else f"{found['difference']:+.1f} {span}"
        rows.append([tier, str(found["num_samples"]), f"{found['score']:.1f}", change])
    return make(["tier", "n", "score", "points more than exact"], rows)


@table("tier_layers")
def tier_layers() -> str:
    """Return the residual stream's error behind the first and the last layer, by model and tier."""
    rows = []
    for model in TIER_MODELS:
        for length, tiers in read_record(f"tier_fidelity_{model}.json")["layers"].items():
            for tier, errors in tiers.items():
                shown = (f"{100 * error:.1f} %" for error in (errors[1], errors[-1]))
                rows.append([model.replace("_", "-"), f"{int(length):,}", tier, *shown])
    return make(["model", "tokens", "tier", "behind the first layer", "the last but one"], rows)


@table("tier_perplexity")
def tier_perplexity() -> str:
    """Return what products in float8 cost in nats a token, by model and length."""
    rows = []
    for model in TIER_MODELS:
        for length, own in read_record(f"tier_fidelity_{model}.json")["perplexity"].items():
            nats = f"{own['nats']:+.4f} ({own['standard_error']:.4f})"
            shown = (f"{own[name]:.2f}" for name in ("exact", "products"))
            rows.append([model.replace("_", "-"), f"{int(length):,}", *shown, nats])
    return make(["model", "tokens", "perplexity, exact", "float8 products", "nats more"], rows)
