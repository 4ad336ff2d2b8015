"""Table and figure of the study of post-training, on a small made-up record."""

import json
import sys

import pytest
from conftest import REPOSITORY_ROOT

sys.path[:0] = [str(REPOSITORY_ROOT / name) for name in ("studies", "benchmarks")]

import finetune_study_pairs as pairs  # noqa: E402
import finetune_study_report as report  # noqa: E402


def row(scaling="none", seed=0, needle=50.0, **changes):
    ruler = {"niah_single_1": 40.0, "niah_single_2": 60.0, "vt": 0.0, "cwe": None}
    return {
        **{"scaling": scaling, "strategy": "eod", "method": "full", "factor": 4, "seed": seed},
        **{"planned_tokens": 60_000_000, "learning_rate": 1e-3, "minutes": 8.0, "processes": 4},
        "needle": {
            "512": {"0": 100.0, "100": 90.0},
            "2048": {"0": needle, "100": needle - 10},
            "4096": {"0": 0.0, "100": 1.0},
        },
        "ruler": {"512": ruler, "2048": ruler},
        "perplexity": {str(length): {"perplexity": length / 100} for length in (512, 2048, 4096)},
        **changes,
    }


def cells_of(table):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def write(tmp_path, rows):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"rows": rows}))
    return path


def test_means_and_ranges_over_seeds():
    rows = [row("ntk", 1, needle=70.0), row("ntk"), row("none")]
    alone, several = cells_of(report.make_table(rows))
    assert (alone["scaling"], several["scaling"]) == ("none", "ntk")
    assert (alone["seeds"], several["seeds"]) == ("1", "2")
    assert alone["needle 512"] == "95.0"
    assert several["needle target"] == "55.0 (45.0 to 65.0)"
    assert several["lowest depth, target"] == "50 (40 to 60)"
    assert alone["needle 2 x target"] == "0.5"
    assert alone["RULER target"] == "50.0"
    assert [alone[f"perplexity {name}"] for name in ("512", "target", "2 x target")] == [
        *("5.1", "20.5", "41.0")
    ]
    assert alone["GPU minutes"] == "2.00"


def test_failed_cells_are_said_and_never_averaged(tmp_path, capsys):
    failed = {"error": "RuntimeError: no memory", "needle": None}
    rows = [row(), row(seed=1) | failed, row("ntk") | failed, row("ntk", 1) | failed]
    some, none = cells_of(report.make_table(rows))
    assert (some["seeds"], some["needle target"]) == ("2, 1 failed", "45.0")
    assert (none["seeds"], none["needle target"]) == ("2, 2 failed", "failed")
    report.main([str(write(tmp_path, rows))])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("failed: scaling") for line in lines) == 3


def test_a_missing_cell_is_named(tmp_path, capsys):
    path = write(tmp_path, [row(), row(seed=1), row("ntk")])
    with pytest.raises(
        SystemExit, match="scaling ntk, strategy eod, method full, factor 4, seed 1"
    ):
        report.main([str(path)])
    assert capsys.readouterr().out == ""
    report.main([str(path), "--partial"])
    assert "not run: scaling ntk" in capsys.readouterr().out


def test_each_method_has_a_grid_of_its_own(tmp_path, capsys):
    lora = [row("ntk", method="lora"), row("ntk", 1, method="lora")]
    full = [row(scaling, seed) for scaling in ("none", "ntk") for seed in (0, 1)]
    report.main([str(write(tmp_path, full + lora))])  # adapters have no cell without a scaling
    assert "not run" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="lacks 1 of its grid\n  scaling none.*full.*seed 1\n"):
        report.main([str(write(tmp_path, [full[0], *full[2:], *lora]))])


def test_means_over_another_axis(tmp_path, capsys):
    rows = [row(needle=70.0), row(needle=50.0, strategy="adaptive"), row("ntk")]
    path = write(tmp_path, rows)
    report.main([str(path), "--partial", "--over", "strategy"])
    none, ntk = cells_of("\n".join(capsys.readouterr().out.splitlines()[:4]))
    assert (none["strategy"], none["needle target"]) == ("all", "55.0 (45.0 to 65.0)")
    assert ntk["needle target"] == "45.0"


def test_an_empty_record_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="holds 0 cells"):
        report.main([str(write(tmp_path, []))])


def test_a_missing_figure_is_named():
    whole = row()
    del whole["needle"]["4096"]
    with pytest.raises(ValueError, match="seed 0 has no 'needle 2 x target': '4096'"):
        report.make_table([whole])
    whole = row()
    whole["ruler"]["512"] = {"niah_single_1": None}
    with pytest.raises(ValueError, match="has no 'RULER 512'.* lacks niah_single_1"):
        report.make_table([whole])


def test_variants_of_a_cell_are_rows_of_their_own():
    rows = [row(), row(planned_tokens=30_000_000)]
    table = cells_of(report.make_table(rows))
    assert {line["method"] for line in table} == {
        *("full, 60M tokens, rate 0.001", "full, 30M tokens, rate 0.001")
    }


@pytest.mark.parametrize("factor", [1, 30])
def test_the_figure_is_drawn(tmp_path, factor):
    pytest.importorskip("matplotlib")
    other = row("diffusion_ntk")
    for figures in other["perplexity"].values():
        figures["perplexity"] *= factor
    path = write(tmp_path, [row(), other, row("ntk") | {"error": "x"}])
    report.main([str(path), "--plot", str(tmp_path / "images/study.png")])
    assert (tmp_path / "images/study.png").read_bytes().startswith(b"\x89PNG")


def test_pairs_differ_in_one_axis_alone():
    rows = [
        *(row("ntk", seed, needle=60.0 + 10 * seed) for seed in range(3)),
        *(row("none", seed) for seed in range(2)),
        row("none", 2) | {"error": "RuntimeError: no memory", "needle": None},
        row("none", 0, strategy="direct", needle=0.0),  # no partner
    ]
    found = pairs.find_pairs(rows, "scaling", "ntk", "none")
    assert list(found.index.get_level_values("seed")) == [0, 1]
    assert list(found["needle target"]) == [10.0, 20.0]
    (line,) = cells_of(pairs.make_table(found))
    assert (line["factor"], line["pairs"]) == ("4", "2")
    assert line["needle target"] == "+15.0 ± 5.0"  # 10 and 20
    assert line["needle 512"] == "+0.0 ± 0.0"
    alone = pairs.find_pairs(rows, "strategy", "eod", "direct")
    assert cells_of(pairs.make_table(alone))[0]["needle target"] == "+50.0"
    with pytest.raises(ValueError, match="Unknown scaling 'yarn'. Valid: none, ntk"):
        pairs.find_pairs(rows, "scaling", "yarn", "none")


def test_each_factor_has_its_line_and_three_pairs_may_be_marked():
    apart = {4: (30.0, 31.0, 32.0), 16: (-30.0, 0.0, 31.0)}  # t = 53.7 and 0.02
    rows = [row("none", seed, factor=factor) for factor in apart for seed in range(3)]
    for factor, values in apart.items():
        rows += [
            row("ntk", seed, factor=factor, needle=50.0 + value)
            for seed, value in enumerate(values)
        ]
    for cell in rows:
        cell["needle"] = {str(512 * n): cell["needle"]["2048"] for n in (1, 4, 8, 16, 32)}
        cell["ruler"] = {str(512 * n): cell["ruler"]["512"] for n in (1, 4, 16)}
        cell["perplexity"] = dict.fromkeys(cell["needle"], {"perplexity": 12.0})
    lines = cells_of(pairs.make_table(pairs.find_pairs(rows, "scaling", "ntk", "none")))
    assert [line["factor"] for line in lines] == ["4", "16"]
    assert [line["needle target"] for line in lines] == ["+31.0 ± 0.6 *", "+0.3 ± 17.6"]
    assert lines[0]["perplexity target"] == "+0.0 ± 0.0"  # no spread, no test
    assert lines[0]["GPU minutes"] == "+0.00 ± 0.00"


def test_two_partners_of_one_cell_are_an_error():
    rows = [row(method="lora"), row(), row(learning_rate=5e-4)]
    with pytest.raises(ValueError, match=r"two cells of method full have .*; leave one out"):
        pairs.find_pairs(rows, "method", "lora", "full")


def test_methods_are_paired_though_their_rates_differ():
    rows = [row(needle=50.0), row(needle=60.0, method="lora", learning_rate=3e-3)]
    found = pairs.find_pairs(rows, "method", "lora", "full")
    assert cells_of(pairs.make_table(found))[0]["needle target"] == "+10.0"


def test_settings_can_be_left_out_of_the_pairs(tmp_path, capsys):
    rows = [row("none", needle=10.0), row("none", strategy="direct"), row("ntk", needle=60.0)]
    path = write(tmp_path, [*rows, row("ntk", strategy="direct")])
    pairs.main([str(path), "strategy", "eod", "direct", "--leave-out", "none"])
    assert cells_of(capsys.readouterr().out.strip())[0]["needle target"] == "+10.0"
    with pytest.raises(ValueError, match="Unknown strategy 'eod'"):
        pairs.main([str(path), "strategy", "eod", "direct", "--leave-out", "eod"])
    with pytest.raises(ValueError, match="Unknown --leave-out 'nnoe'. Did you mean 'none'"):
        pairs.main([str(path), "strategy", "eod", "direct", "--leave-out", "nnoe"])
