"""What a paper prints: tables and figures that fit its columns, and a paragraph on methods."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from work_dirs import RULER_TASKS, make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.cli import main
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.latex import PACKAGES, WIDTHS, write_latex
from opencompass_llada.report.paper import (
    MAIN,
    PaperOptions,
    choose_models,
    make_paper_table,
    write_paper,
)
from opencompass_llada.report.scores import find_effective_lengths
from opencompass_llada.report.tables import make_tables
from opencompass_llada.report.writers import Cell, Table

LATEX = shutil.which("pdflatex")
needs_latex = pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")
CELLS = [niah_cell(length, depth) for length in (2000, 16000) for depth in (0, 50)]
RULER = [ruler_cell(task, length) for task in RULER_TASKS for length in (4096, 131072)]
SCALED = {"type": "diffusion_ntk", "target_length": 131072, "trained_length": 4096}
HOSTILE = ["100% & #1_{x}^2~\\ [a] | <b>", "$\\input{secret}$", "a" * 12 + "_" + "b" * 12]
LEADERBOARDS = {
    "three models": ([make_model(n) for n in ("one", "two", "three-ar")], [*CELLS, *RULER], ()),
    "thirty scalings": (
        [make_model(f"model_{n}", rope_scaling=SCALED) for n in range(30)],
        CELLS,
        [f"LLaDA-8B-Instruct-{n}" for n in range(30)],
    ),
    "hostile names": ([make_model(f"m{n}") for n in range(3)], RULER[::2], HOSTILE),
}


@pytest.fixture(scope="module", params=LEADERBOARDS)
def scores(request, tmp_path_factory):
    models, cells, titles = LEADERBOARDS[request.param]
    run = write_run(tmp_path_factory.mktemp("paper") / "a", models, cells, titles=titles)
    # All bold: the widest that they can be. Ranks take long and decide no width.
    return [replace(score, is_top=True) for score in make_board(collect([run]))]


def compile_latex(path):
    """Return the log of a document that must compile, with nothing that sticks out."""
    words = [LATEX, "-interaction=nonstopmode", "-halt-on-error", path.name]
    done = subprocess.run(words, cwd=path.parent, capture_output=True, timeout=120)
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull \\hbox" not in log
    assert "too large" not in log, "a float is higher than the page"
    return log


@needs_latex
@pytest.mark.parametrize("width", WIDTHS)
def test_no_table_sticks_out_of_its_column(scores, tmp_path, width):
    tables = make_tables(scores, find_effective_lengths(scores), [], [], {})
    columns = list(dict.fromkeys((s.series, s.column, s.length) for s in scores))
    tables += [make_paper_table(scores, columns, has_intervals=flag) for flag in (True, False)]
    text = "\\clearpage\n".join(write_latex(table, width=width) for table in tables)
    assert "resizebox" not in text
    (tmp_path / "all.tex").write_text(MAIN.replace("\\input{methods}", "") % (PACKAGES, ""))
    (tmp_path / "table.tex").write_text(text)
    compile_latex(tmp_path / "all.tex")


@needs_latex
@pytest.mark.parametrize(("name", "width"), [("three models", "one"), ("hostile names", "two")])
def test_a_paper_compiles_with_its_fonts_in_it(tmp_path, name, width):
    models, cells, titles = LEADERBOARDS[name]
    run = write_run(tmp_path / "a", models, cells, titles=titles)
    paths = write_paper(collect([run]), tmp_path / "paper", PaperOptions(width=width))
    assert all(path.is_file() for path in paths)
    assert len(list((tmp_path / "paper/figures").glob("*.pdf"))) >= 3 - (width == "two")
    compile_latex(tmp_path / "paper/main.tex")
    if fonts := shutil.which("pdffonts"):
        listed = subprocess.run(
            [fonts, tmp_path / "paper/main.pdf"], capture_output=True, text=True
        )
        rows = [line.split()[-5:] for line in listed.stdout.splitlines()[2:]]
        assert rows
        assert {row[0] for row in rows} == {"yes"}, "a font is not embedded"
        assert "Type 3" not in listed.stdout
        for figure in (tmp_path / "paper/figures").glob("*.pdf"):
            assert b"/Type3" not in figure.read_bytes()


def test_a_table_is_cut_where_it_does_not_fit():
    row = (Cell(text="model"), *(Cell(text="99.9 [88.8, 100.0]", value=99.9) for _ in range(20)))
    table = Table(name="t", title="T", heads=("model", *(["task"] * 20)), rows=(row,) * 60)
    text = write_latex(table, width="one")
    blocks = re.findall(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)
    for block in blocks:
        widths = [float(width) for width in re.findall(r"p\{([\d.]+)pt\}", block)]
        assert sum(widths) + 6 * len(widths) <= 3.3 * 72.27
    assert text.count(r"88.8,~100.0") == 60 * 20, "every field is there once"
    assert text.count(r"\label{tab:t") == text.count(r"\begin{table}") > 1
    assert "part 2 of" in text


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    models, cells, _ = LEADERBOARDS["three models"]
    return write_run(tmp_path_factory.mktemp("paper") / "b", models, cells)


def test_models_and_columns_are_chosen(three, tmp_path):
    words = ["paper", str(three), "-o", str(tmp_path), "--width", "one", "--no-intervals"]
    chosen = ["--models", "two", "one", "--columns", "RULER: QA at 4,096", "Needle in a haystack"]
    assert main([*words, *chosen]) == 0
    text = (tmp_path / "table.tex").read_text()
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.partition(" & ")[0] for line in lines] == ["model", "two", "one"]
    heads = [" ".join(head.split()) for head in lines[0].removesuffix(r" \\").split(" & ")[1:]]
    places = ("2,000", "16,000", "all lengths")
    means = [f"Needle in a haystack: mean over depths {where}" for where in places]
    assert heads == ["RULER: QA 4,096", *means]
    assert "three-ar" not in (tmp_path / "methods.md").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "tow"], r"model 'tow'.*Did you mean 'two'\?.*Valid: one, three-ar, two"),
        (["--columns", "RULLER"], r"column 'RULLER'.*Did you mean 'RULER'\?.*Valid: .*RULER: QA"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_written(three, tmp_path, capsys, words, told):
    assert main(["paper", str(three), "-o", str(tmp_path / "out"), *words]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_lines_asked_other_prompts_stand_apart_and_are_named(tmp_path):
    """In the order asked for, with a rule between them and the reason in the caption."""
    cells = [niah_cell(2000, 50, repeats=4)]
    runs = [write_run(tmp_path / "a", [make_model("one"), make_model("two")], cells, quality=0.6),
            write_run(tmp_path / "b", [make_model("three")], cells, word="paper")]  # fmt: skip
    names = ("two", "three", "one")
    write_paper(collect(runs), tmp_path / "paper", PaperOptions(models=names))
    text = (tmp_path / "paper/table.tex").read_text()
    body = text[text.index(r"\toprule") :]
    lines = [line.partition(" & ")[0] for line in body.splitlines()]
    assert lines[2:7] == [r"\midrule", "two", "one", r"\midrule", "three"]
    assert "Lines 1 to 2 (two, one): These lines were asked the same" in text
    assert re.search(r"Line 3 \(three\): Not asked the same .*: prompts\.", text)
    assert "among lines that were asked the same" in text


def test_many_groups_of_one_reason_are_named_once(tmp_path):
    """Or the caption would leave the table no room on the page."""
    cells = [niah_cell(2000, 50)]
    runs = [write_run(tmp_path / f"r{n}", [make_model(f"m{n}")], cells, word=f"w{n}")
            for n in range(9)]  # fmt: skip
    write_paper(collect(runs), tmp_path / "paper", PaperOptions(width="one"))
    text = (tmp_path / "paper/table.tex").read_text()
    assert text.count("Not asked the same") == 1
    assert "Line 2 (m1), Line 3 (m2)" in text
    assert "and 2 more: Not asked the same" in text


def test_the_best_is_the_best_of_the_models_shown(three):
    shown = choose_models(collect([three]), ["three-ar"])
    assert set(shown.results.entry) == {"three-ar"}


def test_what_is_decided_against_the_baseline_is_marked(three, tmp_path):
    """At 131,072 tokens `one` is drawn to hit, the others are not."""
    words = ["paper", str(three), "-o", str(tmp_path), "--no-intervals"]
    words += ["--columns", "RULER: 13 tasks at 131,072"]
    for baseline, marks in (
        ("one", {"two": r"\ddagger", "three-ar": r"\ddagger"}),
        ("two", {"one": r"\dagger"}),
    ):
        assert main([*words, "--baseline", baseline]) == 0
        text = (tmp_path / "table.tex").read_text()
        rows = [line.split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
        assert "13 tasks" in text
        found = {row[0].replace(r"\allowbreak{}", ""): row[1] for row in rows[1:]}
        marked = {name: re.search(r"\\d?dagger", cell) for name, cell in found.items()}
        assert {name: m.group() for name, m in marked.items() if m} == marks
        assert f"worse than {baseline} on the same prompts" in text
        assert f"compared with {baseline}" in (tmp_path / "methods.tex").read_text()


def test_a_column_that_is_not_compared_is_not_called_undecided(three, tmp_path):
    for columns, told in (
        (["RULER: 13 tasks at 131,072"], "No mark: undecided."),
        (["RULER: 13 tasks at 131,072", "RULER: vt at 131,072"], "undecided, or not compared."),
    ):
        assert main(["paper", str(three), "-o", str(tmp_path), "--columns", *columns]) == 0
        assert told in " ".join((tmp_path / "table.tex").read_text().split())


def test_methods_name_the_devices_of_the_lines_shown(three, tmp_path):
    models, cells, _ = LEADERBOARDS["three models"]
    other = write_run(tmp_path / "other", [make_model("four")], cells)
    path = other / "provenance/four.jsonl"
    path.write_text(path.read_text().replace('"cpu"', '"cuda:0"'))
    for shown, device in ((["one"], "cpu"), (["four"], "cuda:0"), ([], "cpu and cuda:0")):
        write_paper(collect([three, other]), tmp_path / "p", PaperOptions(models=tuple(shown)))
        assert f"Device: {device}." in (tmp_path / "p/methods.md").read_text()


def test_methods_say_what_was_recorded_and_what_was_not(three, tmp_path):
    write_paper(collect([three]), tmp_path, PaperOptions())
    text = (tmp_path / "methods.md").read_text().replace("\\", "")
    for part in ("We evaluated 3 models. All ran without RoPE scaling, were trained on a length "
                 "that is not recorded, answered with generation options block_length=32 "
                 "num_steps=32 and computed in precision float32.",
                 "one: masked diffusion; checkpoint one (content hash 0000000000000000).",
                 "three-ar: autoregressive", "13 tasks", "in tokens: 4,096 and 131,072",
                 "counted by the tokenizer gpt-4", "samples a cell: 4", "Device: cpu",
                 "torch not recorded", "95 %"):  # fmt: skip
        assert part in text, part
    assert "somewhere" not in text, "a path names a person or a machine"


def test_methods_name_what_lines_have_each_for_itself(tmp_path):
    """Generated tokens, checkpoints, tokenizers, commits of whom, and who was compared."""
    cells = [niah_cell(2000, 50, tokenizer="/home/x/a/final")]
    short = {**cells[0], "infer_cfg": {}}
    auto = {"sampler": None, "dtype": "float32"}
    runs = [
        write_run(tmp_path / "a", [make_model("one"), make_model("two-ar", **auto)], cells),
        write_run(tmp_path / "b", [make_model("three", path="/home/x/a/final", max_out_len=16),
                                   make_model("four", path="/home/x/b/final", max_out_len=16)],
                  [short], word="paper"),
    ]  # fmt: skip
    path = runs[0] / "provenance/one.jsonl"
    packages = '"packages": {"opencompass-llada": "1.0", "opencompass": "0.5"}, "git_commit": "abc"'
    path.write_text(path.read_text().replace('"device": "cpu"', f'"device": "cpu", {packages}'))
    write_paper(collect(runs), tmp_path / "paper", PaperOptions())
    text = (tmp_path / "paper/methods.md").read_text().replace("\\", "")
    for part in ("generated tokens at most: 32 (one and two-ar), 16 (three and four)",
                 "checkpoint a/final", "checkpoint b/final", "counted by the tokenizer a/final",
                 "two-ar: autoregressive; checkpoint two-ar (content hash 0000000000000001)",
                 "; default generation options.",
                 "opencompass-llada 1.0 (commit abc)", "opencompass 0.5.",
                 "two-ar was compared with one on the samples that both answered",
                 "Not compared with one: three and four (not asked the same as one"):  # fmt: skip
        assert part in text, part
    assert "/home" not in text + (tmp_path / "paper/table.tex").read_text()
