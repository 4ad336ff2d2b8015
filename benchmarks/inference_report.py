"""The tables that the inference benchmark prints last."""

from __future__ import annotations

from typing import Any


def report(record: dict[str, Any]) -> None:
    """Print the tables."""
    print(
        "\nceilings: "
        + ", ".join(
            f"{name} {value / 1e12:.3g} T/s"
            for name, value in record.get("ceilings", {}).items()
            if value
        )
    )
    for name in (
        "kernels",
        "attention rule",
        "synchronisations",
        "batching",
        "without graphs",
        "small steps",
        "logits",
        "seeds at the longest",
        "tiny",
        "profile",
    ):
        if name in record:
            print(f"{name}: {_rounded(record[name])}")
    for name, value in record.items():
        if name.startswith("floor"):
            print(f"{name}: {_rounded(value)}")
    print(
        f"{'shape':<11}{'mode':<12}{'s':>8}{'NFE':>5}{'tok/s':>8}{'GB':>6}{'plan':>6}"
        f"{'x seeds':>9}{'x floor':>9}  asked"
    )
    for name, value in record.items():
        if not name.startswith("run "):
            continue
        for mode, found in value["modes"].items():
            print(
                f"{name[4:]:<11}{mode:<12}{found['seconds']:>8.3f}{found['nfe']:>5}"
                f"{found['tokens_per_second']:>8.1f}{found.get('peak_allocated_gb', 0):>6.1f}"
                f"{found.get('planned_gb', 0):>6.1f}"
                f"{found.get('against_baseline', 0):>9.1f}{found.get('against_floor', 0):>9.3f}"
                f"  {value['shape']['asked']}"
            )
    print(f"seconds at: {record['seconds_at']}")
    print(f"failed: {record['failed'] or 'nothing'}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
