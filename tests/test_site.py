"""The site's build: links that leave docs/ are kept, and what is broken stops it."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY_ROOT

pytest.importorskip("mkdocs", reason="the documentation needs the extra 'docs'")

PAGE = """# Home

A [page](tutorials/first_run.md#ü-b--c), a [config](../configs/a.py), a [folder](../configs) and a
[record](../benchmarks/records/r.json). It took 5 s<!-- figure: r.json#/seconds -->.

| a | b |
|---|---|
| `x \\| y` | 1 |
"""


@pytest.fixture
def project(tmp_path):
    """Return a checkout of a few files, with the repository's own settings and hooks."""
    shutil.copy(REPOSITORY_ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(REPOSITORY_ROOT / "docs_tools", tmp_path / "docs_tools")
    files = {
        "docs/index.md": PAGE,
        "docs/style.css": "",
        "docs/tutorials/first_run.md": "# Run\n\n## Ü b / c\n",
        "configs/a.py": "models = []\n",
        "benchmarks/records/r.json": '{"seconds": 5}',
        "CHANGELOG.md": "# Changelog\n\n[docs](docs/tutorials/first_run.md)\n",
        "CONTRIBUTING.md": "# Contributing\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def build(project):
    """Build the site as `make docs`; return the exit status and what was written."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    return done.returncode, done.stdout + done.stderr


def test_links_that_leave_docs_lead_to_copies_and_marks_are_gone(project):
    status, output = build(project)
    assert status == 0, output
    site = project / "build/site"
    home = (site / "index.html").read_text(encoding="utf-8")
    for link in (
        "source/configs/a.py.html",
        "source/configs/index.html",
        "source/benchmarks/records/r.json",
        "tutorials/first_run.html#ü-b--c",
    ):
        assert f'href="{link}"' in home
        assert (site / link.partition("#")[0]).is_file()
    assert "figure:" not in home
    assert "<code>x | y</code>" in home
    changelog = (site / "source/CHANGELOG.html").read_text(encoding="utf-8")
    assert 'href="../tutorials/first_run.html"' in changelog
    assert 'src="http' not in home, "nothing is loaded from elsewhere"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("[x](no.md)", "no.md"),
        ("[x](../configs/no.py)", "no.py"),
        ("[x](tutorials/first_run.md#no)", "does not contain an anchor '#no'"),
        ("A text\n- and a list", "a list needs an empty line above it"),
    ],
)
def test_what_is_broken_stops_the_build(project, broken, words):
    (project / "docs/index.md").write_text(f"{PAGE}\n{broken}\n", encoding="utf-8")
    status, output = build(project)
    assert status == 1
    assert words in output
    assert "Aborted with 1 warnings" in output
