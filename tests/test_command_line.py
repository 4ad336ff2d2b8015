"""Words, names and variables that are wrong are refused before anything heavy is imported."""

import os
import subprocess
import sys

import pytest
from opencompass.cli.main import parse_args

from opencompass_llada.runs.command_line import NamingParser, find_parser

# Runs a command, and says on the last line which heavy packages it imported.
TELL = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__") if sys.argv[0].endswith(".py") else (
        runpy.run_module(sys.argv[0], run_name="__main__")
    )
finally:
    heavy = {"torch", "transformers", "datasets", "pandas", "matplotlib", "opencompass.registry"}
    sys.stderr.write(f"heavy: {sorted(heavy & set(sys.modules))}\\n")
"""
CLI, RUN, NIAH = "opencompass_llada.cli", "run.py", "configs/eval_llada_niah.py"


@pytest.mark.parametrize(
    ("words", "variables", "status", "told"),
    [
        ([CLI, "--help"], {}, 0, "usage: opencompass-llada"),
        ([CLI, "--version"], {}, 0, "opencompass-llada "),
        ([CLI, "report", "nowhere", "-o", "x"], {}, 2, "'nowhere' does not exist"),
        ([CLI, "watch", "nowhere"], {}, 2, "'nowhere' does not exist"),
        ([CLI, "report", "x", "--ouput", "y"], {}, 2, "Did you mean '--output' by '--ouput'?"),
        ([CLI, "doctor", "--config", "configs/eval_llada_nia.py"], {}, 1, "Did you mean"),
        ([RUN, "--help"], {}, 0, "--work-dir"),
        ([RUN, "configs/eval_llada_nia.py"], {}, 1, "Did you mean"),
        ([RUN, NIAH, "--wrok-dir", "x"], {}, 2, "Did you mean '--work-dir' by '--wrok-dir'?"),
        ([RUN, NIAH], {"LLADA_SCALNG": "ntk"}, 1, "Did you mean 'LLADA_SCALING'?"),
        ([RUN, NIAH], {"LLADA_MODELS": "tiny_lada"}, 1, "Did you mean 'tiny_llada'?"),
        ([RUN, NIAH], {"LLADA_SCALING": "ntkk"}, 1, "Did you mean 'ntk'?"),
        ([RUN, "configs/eval_llada_ruler.py"], {"LLADA_TASKS": "vtt"}, 1, "Did you mean 'vt'?"),
        ([CLI, "watch", "x", "--evry", "3"], {}, 2, "Did you mean '--every' by '--evry'?"),
        ([CLI, "convert", "x", "y", "--config-form", "z"], {}, 2, "Did you mean '--config-from'"),
        ([CLI, "new-config", "--model", "tiny_lada"], {}, 1, "Did you mean 'tiny_llada'?"),
        (
            [CLI, "run", NIAH, "--wrok-dir", "x"],
            {},
            2,
            "Did you mean '--work-dir' by '--wrok-dir'?",
        ),
        *(
            (
                [RUN, f"configs/{name}.py"],
                {"LLADA_SCALNG": "ntk"},
                1,
                "Did you mean 'LLADA_SCALING'?",
            )
            for name in (
                "eval_llada_long",
                "eval_llada_ppl",
                "eval_llada_short",
                "eval_leaderboard",
                "papers/longllada_longbench",
                "papers/ultrallada_ruler",
            )
        ),
    ],
    ids=str,
)
def test_a_mistake_costs_no_import(words, variables, status, told, repository_root):
    found = subprocess.run(
        [sys.executable, "-c", TELL, *words],
        env={**os.environ, "PYTHONPATH": str(repository_root), **variables},
        cwd=repository_root,
        capture_output=True,
        text=True,
        check=False,
    )
    output = found.stdout + found.stderr
    assert found.returncode == status, output
    assert told in output
    assert "heavy: []" in found.stderr, found.stderr[-200:]


@pytest.mark.parametrize(
    "words",
    [
        ["c.py", "-w", "x", "-r", "-m", "eval", "--max-num-workers", "3"],
        ["--models", "a", "b", "--datasets", "c", "--debug"],
        ["c.py", "--slurm", "-p", "part", "-q", "quick", "--retry", "4"],
        ["--hf-path", "p", "--hf-type", "base", "--model-kwargs", "a=1", "--datasets", "c"],
    ],
    ids=str,
)
def test_the_parser_is_opencompass_own(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert find_parser()() == parse_args()


def test_an_option_that_is_near_none_gets_no_guess(capsys):
    parser = NamingParser(prog="p")
    parser.add_argument("--work-dir")
    with pytest.raises(SystemExit):
        parser.parse_args(["--quxx", "1"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --quxx 1\n")
