"""The pages for users: they read easily, and what they mark as runnable runs, in order.

A block that follows the line ``<!-- run -->`` is run as a reader would: in a folder that looks like
a checkout, without a network, after the page's blocks before it. Pages that begin with the same
command share what it left. Python blocks run in this process, in a namespace of their own.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import traceback

import pytest
from conftest import REPOSITORY_ROOT

sys.path.insert(0, str(REPOSITORY_ROOT / "docs_tools"))

import readability  # noqa: E402

BLOCK = re.compile(r"^<!-- run -->\n```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [REPOSITORY_ROOT / "README.md", *sorted((REPOSITORY_ROOT / "docs").rglob("*.md"))]
RUNNABLE = [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")]
#: Messages of other programs that docs/troubleshooting.md explains.
FOREIGN = ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2",)
#: What a checkout holds that commands of the docs use.
CHECKOUT = ("configs", "needlebench", "opencompass_llada", "ruler_patches", "run.py", "tiny_models")


def list_blocks(text):
    """Return language and code of each runnable block of a page."""
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("<!-- run -->"), "a mark stands before no bash or python block"
    return blocks


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with what a checkout holds, and no outputs."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in CHECKOUT:
        (folder / name).symlink_to(REPOSITORY_ROOT / name)
    return folder


def run_block(language, code, folder):
    """Run a block and return its exit status and what it wrote."""
    if language == "python":
        return run_python_block(code, folder)
    outside = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment = {
        **outside,
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "PYTHONPATH": str(REPOSITORY_ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENCOMPASS_LLADA_CACHE": str(folder.parent / "cache"),
        # No network: a hub or a proxy that is asked fails at once.
        "HF_HUB_OFFLINE": "1",
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    }
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def run_python_block(code, folder):
    """Run a Python block in a new namespace; importing torch anew would take seconds each."""
    written, before = io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(written):
            exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    except (Exception, SystemExit):
        return 1, written.getvalue() + traceback.format_exc()
    finally:
        os.chdir(before)
    return 0, written.getvalue()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return the folder of what pages' first commands left, one for all of xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "first_blocks"


def run_first_block(language, code, folder, finished):
    """Run a page's first block, or take over what the same one left for another page."""
    kept = finished / hashlib.sha256(code.encode()).hexdigest()
    if kept.is_dir():
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        return 0, ""
    status, output = run_block(language, code, folder)
    if status == 0:
        finished.mkdir(exist_ok=True)
        own = finished / f"{kept.name}-{os.getpid()}"
        shutil.copytree(
            folder,
            own,
            ignore=lambda place, _: CHECKOUT if os.path.samefile(place, folder) else (),
        )
        with contextlib.suppress(OSError):  # another worker was faster
            own.rename(kept)
    return status, output


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_runnable_blocks_run(page, checkout, finished):
    for number, (language, code) in enumerate(list_blocks(page.read_text(encoding="utf-8")), 1):
        if number == 1 and language == "bash":
            status, output = run_first_block(language, code, checkout, finished)
        else:
            status, output = run_block(language, code, checkout)
        assert status == 0, f"{page.name}, runnable block {number}:\n{code}\n{output[-3000:]}"


def test_a_block_that_fails_is_seen(checkout):
    page = "<!-- run -->\n```bash\nfalse | true\n```\n\n<!-- run -->\n```python\nprint(5)\n```\n"
    (bash, python) = list_blocks(page)
    assert run_block(*bash, checkout)[0] == 1
    assert run_block(*python, checkout) == (0, "5\n")
    assert run_block("python", "import no_such_module", checkout)[0] == 1
    assert run_block("python", "raise SystemExit(2)", checkout)[0] == 1
    with pytest.raises(AssertionError, match="no bash or python block"):
        list_blocks("<!-- run -->\n```\nls\n```\n")


def test_a_first_block_runs_once_and_leaves_the_same_to_each_page(checkout, tmp_path):
    finished, other = tmp_path / "finished", tmp_path / "other"
    other.mkdir()
    block = ("bash", "mkdir -p outputs/configs; date +%N > outputs/configs/now\n")
    assert run_first_block(*block, checkout, finished)[0] == 0
    assert run_first_block(*block, other, finished)[0] == 0
    assert {path.name for path in other.iterdir()} == {"outputs"}
    file = "outputs/configs/now"  # a run's folder holds one of that name, as a checkout does
    assert (other / file).read_text() == (checkout / file).read_text()
    for _ in range(2):
        assert run_first_block("bash", "false\n", checkout, finished)[0] == 1, "never kept"


@pytest.mark.parametrize("page", readability.list_pages(), ids=lambda page: page.stem)
def test_pages_for_users_read_easily(page):
    found = readability.judge(page.read_text(encoding="utf-8"))
    assert found.longest == [], f"sentences of more than {readability.MOST_WORDS} words"
    assert found.ease >= readability.LOWEST_EASE, f"reading ease {found.ease:.0f}"


def test_reading_ease_is_flesch_of_the_prose_alone():
    text = (
        "# A heading of many polysyllabic considerations\n\nThe cat sat on the mat. It slept.\n\n"
        "| incomprehensible | table |\n|---|---|\n\n```\nunintelligible = representation\n```\n\n"
        "- See [the page](very/long/address.md) on `incomprehensibility`.\n<!-- figure: a#/b -->\n"
    )
    assert readability.list_sentences(text) == [
        "The cat sat on the mat.",
        "It slept.",
        "See the page on code.",
    ]
    # 13 words of one syllable each in 3 sentences.
    assert readability.judge(text).ease == pytest.approx(206.835 - 1.015 * 13 / 3 - 84.6)
    long = " ".join(["word"] * 31) + "."
    assert readability.judge(long).longest == [long]
    assert readability.judge("").ease == 100


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("file", 1), ("table", 2), ("tables", 2), ("samples", 2), ("masked", 1), ("loaded", 2),
     ("batches", 2), ("station", 2), ("variable", 4), ("idea", 3), ("evaluate", 4), ("2,048", 2)],
)  # fmt: skip
def test_syllables(word, syllables):
    assert readability.count_syllables(word) == syllables


def test_messages_of_troubleshooting_are_those_of_the_code():
    """``...`` and words in capitals stand for what differs."""
    page = (REPOSITORY_ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    sources = [*(REPOSITORY_ROOT / "opencompass_llada").rglob("*.py"), REPOSITORY_ROOT / "Makefile"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    # Texts that go on in the next line, and what is filled in, which is gone on both sides.
    code = re.sub(r"\"\s*\n\s*f?\"", "", code)
    code = re.sub(r"\s+", " ", re.sub(r"\{[^{}\n]*\}|%d|%s|\$\(\w+\)|'", " ", code))
    lost = []
    for message in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE):
        # options.unknown_name_message puts the first word before what it is given.
        parts = re.split(r"^Unknown |\.\.\.|\b[A-Z]{2,}\b|=|'|\b[A-Z]\b|\d+(?:\.\d+)*", message)
        parts = [part.strip() for part in parts if len(part.strip()) > 6]
        if message not in FOREIGN and not all(part in code for part in parts):
            lost.append((message, [part for part in parts if part not in code]))
    assert lost == []


def test_the_ten_lines_of_the_readme_are_a_run(tmp_path, monkeypatch):
    """With a checkpoint and data that are here, in place of those of the reader."""
    from mmengine.config import Config

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    readme = (REPOSITORY_ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 12
    folder = REPOSITORY_ROOT / "opencompass_llada/assets/tiny-llada"
    code = code.replace("/data/my-llada", str(folder)).replace(
        "models=", 'data="embedded", models='
    )
    (tmp_path / "my.py").write_text(code)
    cfg = Config.fromfile(str(tmp_path / "my.py"), format_python_code=False)
    cells = [cell for group in cfg["model_dataset_combinations"] for cell in group["datasets"]]
    assert {cell["length"] for cell in cells if "length" in cell} == {4096, 32768}
    assert "gsm8k" in {cell["abbr"] for cell in cells}
    assert cfg["work_dir"] == "outputs/my"
