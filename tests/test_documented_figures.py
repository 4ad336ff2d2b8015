"""Every marked figure and table of the docs is its record's, and records say what made them."""

import json
import pkgutil
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY_ROOT

sys.path.insert(0, str(REPOSITORY_ROOT / "benchmarks"))

import documented_figures as documented  # noqa: E402
from documented import registry, tables  # noqa: E402
from documented.records import look_up  # noqa: E402

RECORDS = sorted(
    path
    for folder in ("docs", "benchmarks")
    for path in (REPOSITORY_ROOT / folder).glob("records/*.json")
)


@pytest.mark.parametrize("page", documented.PAGES, ids=lambda page: page.name)
def test_marked_figures_are_their_records(page):
    text = page.read_text(encoding="utf-8")
    assert documented.rewrite(text) == text, "run benchmarks/documented_figures.py --write"
    opened, closed = text.count("<!-- table: "), len(documented.TABLE.findall(text))
    assert opened == closed, "a table's mark lacks its <!-- end -->"
    assert text.count("<!-- figure: ") == len(documented.FIGURE.findall(text)), (
        "a mark stands after no number"
    )


def test_every_table_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in documented.PAGES)
    assert sorted(match[1] for match in documented.TABLE.findall(text)) == sorted(documented.TABLES)


def test_each_file_of_tables_makes_one():
    files = {f"{tables.__name__}.{file.name}" for file in pkgutil.iter_modules(tables.__path__)}
    assert files == {maker.func.__module__ for maker in registry.TABLES.values()}


def test_a_table_is_a_decorated_function_and_a_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(registry, "TABLES", own := {})
    monkeypatch.setattr(documented, "TABLES", own)

    @registry.table("toy_short", 1)
    @registry.table("toy_long", 2)
    def toy(rows):
        return "| toy |\n" * rows

    page = "<!-- table: toy_{} -->\n{}<!-- end -->"
    for name, rows in (("short", 1), ("long", 2)):
        assert documented.rewrite(page.format(name, "")) == page.format(name, "| toy |\n" * rows)
    with pytest.raises(ValueError, match="two tables are called 'toy_long'"):
        registry.table("toy_long")(toy)
    with pytest.raises(ValueError, match="'toy_shrt'. Did you mean 'toy_short'"):
        documented.rewrite(page.format("shrt", ""))


@pytest.mark.parametrize("written", [False, True])
def test_a_stale_page_is_shown_and_only_written_when_asked(written, tmp_path, monkeypatch, capsys):
    mark = "<!-- figure: tiny-llada.json#/seconds -->"
    page = tmp_path / "page.md"
    page.write_text(stale := f"It took 507 s{mark}.\n", encoding="utf-8")
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    monkeypatch.setattr(documented, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["documented_figures.py", *["--write"] * written])
    if written:
        documented.main()
    else:
        with pytest.raises(SystemExit, match="1 pages differ"):
            documented.main()
    right = stale.replace("507", "251")
    assert page.read_text(encoding="utf-8") == (right if written else stale)
    assert f"-{stale}+{right}" in capsys.readouterr().out


def test_a_wrong_figure_is_found_and_written():
    mark = "<!-- figure: tiny-llada.json#/seconds -->"
    assert documented.rewrite(f"It took 507 s{mark}.") == f"It took 251 s{mark}."
    assert documented.rewrite(f"It took 1.0{mark}") == f"It took 251.4{mark}"
    table = "<!-- table: niah_tiny_models_needlebench -->\n| tiny-llada | 99 |\n<!-- end -->"
    assert "| tiny-llada | 100 | 99 |" in documented.rewrite(table)


@pytest.mark.parametrize(
    "reference",
    ["no.json#/a", "tiny-llada.json#/no/such", "niah_tiny_models.csv#title=none/score",
     "niah_tiny_models.csv#title=tiny-llada/no"],
)  # fmt: skip
def test_a_reference_to_nothing_is_an_error(reference):
    with pytest.raises(ValueError, match="no"):
        look_up(reference)


def made_by(value):
    """Yield every part of a record that says how it was made."""
    if isinstance(value, dict):
        if "command" in value or {"recipe", "history"} <= set(value):
            yield value
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        yield from made_by(inner)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_says_what_made_it(path):
    parts = list(made_by(json.loads(path.read_text(encoding="utf-8"))))
    assert parts
    for part in parts:
        needed = {"date", "versions", "commit"} | ({"machine"} if "command" in part else {"device"})
        assert needed <= set(part)
        # Where the commit is not known, the one that brought the record in is.
        commit = part["commit"] or part["recorded_in"]
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)


def test_commits_of_records_are_in_the_history():
    """A commit that was rewritten before it arrived here tells nobody what made the record."""

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(REPOSITORY_ROOT), *arguments], capture_output=True)
        return done.stdout.decode().strip() if done.returncode == 0 else None

    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("no git, or no whole history")
    history = set((git("rev-list", "HEAD") or "").split())
    lost = {}
    for path in RECORDS:
        for part in made_by(json.loads(path.read_text(encoding="utf-8"))):
            commit = (part["commit"] or part["recorded_in"]).removesuffix("+changes")
            if commit not in history:
                lost[path.name] = commit
    assert lost == {}, "make them anew from a commit of main, or name the last one of main it has"


def test_each_table_of_records_has_the_record_that_says_how_it_was_made():
    tables = sorted((REPOSITORY_ROOT / "docs/records").glob("*.csv"))
    assert tables
    assert [path for path in tables if not path.with_suffix(".json").is_file()] == []


def test_the_studys_page_is_made_from_its_record(capsys):
    import finetune_study_report

    records = REPOSITORY_ROOT / "docs/records"
    finetune_study_report.main([str(records / "finetune_study.json")])
    assert capsys.readouterr().out == (records / "finetune_study.md").read_text(encoding="utf-8")


def anchor(heading):
    """Return the anchor that GitHub gives a heading."""
    plain = re.sub(r"\[(.+?)\]\(.+?\)|`", lambda match: match[1] or "", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "page", [*documented.PAGES, REPOSITORY_ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    lost = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, part = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            lost.append(target)
        elif part and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            lost += [target] if part not in map(anchor, headings) else []
    folders = "configs|benchmarks|tests|docs|opencompass_llada|needlebench|ruler_patches"
    folders += "|tiny_models|studies"
    for name in re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]+\.(?:py|yaml|md|csv|json)\b", text):
        if "NAME" not in name and not any(
            (folder / name).exists() for folder in (REPOSITORY_ROOT, page.parent)
        ):
            lost.append(name)
    assert lost == []
