"""Reads the arguments of ``opencompass-llada COMMAND`` (or ``python -m opencompass_llada.cli``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass_llada import __version__
from opencompass_llada.faults import guard
from opencompass_llada.runs.command_line import NamingParser, find_config

#: Commands that read finished runs: without any they have nothing to show, and end with 2.
_OF_RUNS = ("report", "paper", "export", "watch", "time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what fails ends in one paragraph (`faults`)."""
    return guard(lambda: _run_command(arguments), program="opencompass-llada")


def _run_command(arguments: Sequence[str] | None) -> int:
    parser = NamingParser(
        prog="opencompass-llada",
        description="Long-context evaluation of masked diffusion language models in OpenCompass.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor", help="say what would keep an evaluation from running, and how to fix it"
    )
    doctor.add_argument(
        "--config", help="check what this config needs, e.g. configs/eval_llada_niah.py"
    )
    doctor.add_argument(
        "--data", default="", help="benchmarks whose files must be there, separated by commas"
    )
    doctor.add_argument("-w", "--work-dir", default="outputs", help="where results will go")
    doctor.set_defaults(run=_run_doctor)
    _add_report(commands)
    _add_paper(commands)
    _add_export(commands)
    _add_watch(commands)
    _add_time(commands)
    _add_fidelity(commands)
    given = parser.parse_args(arguments)
    try:
        _check_folders(given)
        return int(given.run(given))
    except ValueError as error:
        if given.command not in _OF_RUNS:
            raise
        sys.stderr.write(f"opencompass-llada {given.command}: {error}\n")
        return 2


def _check_folders(given: argparse.Namespace) -> None:
    """Refuse folders that are not there before anything is imported that takes seconds."""
    one = getattr(given, "work_dir", None) if given.command in ("watch", "time") else None
    for folder in [*getattr(given, "work_dirs", []), *([one] if one else [])]:
        if not Path(folder).exists():
            raise ValueError(f"{folder!r} does not exist; give a run's folder, or one of runs")


def _run_doctor(given: argparse.Namespace) -> int:
    if given.config is not None:
        find_config(given.config)
    from opencompass_llada.runs.doctor import run_doctor

    return run_doctor(given.config, given.data, given.work_dir)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report", help="write the leaderboard of one or several runs: HTML, Markdown, CSV, LaTeX"
    )
    report.add_argument(
        "work_dirs", nargs="+", metavar="WORKDIR", help="a run's folder, or one that holds runs"
    )
    report.add_argument("-o", "--output", metavar="DIR", required=True, help="where to write")
    report.add_argument("--title", default=None, help="heading of the page")
    told = "send the scores to tensorboard:DIR, wandb:PROJECT or mlflow:URI"
    report.add_argument("--log", metavar="KIND:PLACE", help=told)
    _add_lm_eval(report)
    report.add_argument(
        "--baseline", metavar="NAME", help="line that all are compared with; default: the first"
    )
    report.set_defaults(run=_run_report)


def _run_report(given: argparse.Namespace) -> int:
    from opencompass_llada.report.publish import run_report

    return run_report(
        given.work_dirs,
        Path(given.output),
        given.title,
        baseline=given.baseline,
        lm_eval=given.lm_eval,
        log=given.log,
    )


def _add_lm_eval(command: argparse.ArgumentParser) -> None:
    told = "lm-evaluation-harness' results (its --output_path) as rows besides"
    command.add_argument("--lm-eval", nargs="+", default=[], metavar="FOLDER", help=told)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write a model's results in lm-evaluation-harness' results.json"
    )
    export.add_argument("work_dirs", nargs="+", metavar="WORKDIR", help="as `report` takes them")
    export.add_argument("-o", "--output", metavar="FILE", required=True, help="the results file")
    export.add_argument("--model", help="line of the leaderboard; needed where there are several")
    export.set_defaults(run=_run_export)


def _run_export(given: argparse.Namespace) -> int:
    from opencompass_llada.report.lm_eval import run_export

    return run_export(given.work_dirs, Path(given.output), given.model)


def _add_paper(commands: Any) -> None:
    paper = commands.add_parser(
        "paper", help="write a LaTeX table, figures and a methods paragraph of one or several runs"
    )
    paper.add_argument("work_dirs", nargs="+", metavar="WORKDIR", help="as `report` takes them")
    paper.add_argument("-o", "--output", metavar="DIR", required=True, help="where to write")
    paper.add_argument("--models", nargs="+", default=[], help="lines to show; all by default")
    paper.add_argument("--columns", nargs="+", default=[],
                       help="'RULER', 'RULER: QA' or 'RULER: QA at 4,096'")  # fmt: skip
    paper.add_argument("--no-intervals", action="store_true", help="leave the intervals out")
    paper.add_argument("--width", choices=["one", "two"], default="two",
                       help="columns of a page that table and figures take")  # fmt: skip
    paper.add_argument("--baseline", metavar="NAME", help="as `report` takes it")
    _add_lm_eval(paper)
    paper.set_defaults(run=_run_paper)


def _run_paper(given: argparse.Namespace) -> int:
    from opencompass_llada.report.paper import PaperOptions, run_paper

    options = PaperOptions(
        models=tuple(given.models),
        columns=tuple(given.columns),
        has_intervals=not given.no_intervals,
        width=given.width,
        baseline=given.baseline,
    )
    return run_paper(given.work_dirs, Path(given.output), options, lm_eval=given.lm_eval)


def _add_watch(commands: Any) -> None:
    watch = commands.add_parser(
        "watch", help="show how far a run is, one line a model and benchmark, and its expected end"
    )
    watch.add_argument("work_dir", metavar="WORKDIR", help="a run's folder; of several, the newest")
    watch.add_argument("--every", type=float, default=10, help="seconds between looks; default 10")
    watch.add_argument("--once", action="store_true", help="look once and end")
    watch.set_defaults(run=_run_watch)


def _run_watch(given: argparse.Namespace) -> int:
    from opencompass_llada.runs.watch import run_watch

    return run_watch(given.work_dir, given.every, once=given.once)


def _add_time(commands: Any) -> None:
    timer = commands.add_parser(
        "time",
        help="measure the seconds of a finished run's models, alone; the report shows them",
        description="Answers a few prompts of each model's shortest and longest cells again, one "
        "at a time, warmed up, and writes timing.json into the run's folder. Let nothing else run.",
    )
    timer.add_argument("work_dir", metavar="WORKDIR", help="a run's folder; of several, the newest")
    timer.add_argument("--models", nargs="+", help="abbrs of models; all by default")
    timer.add_argument("--samples", type=int, default=3, help="samples of a cell; default 3")
    timer.add_argument("--rounds", type=int, default=3, help="times that each is timed; default 3")
    timer.set_defaults(run=_run_time)


def _run_time(given: argparse.Namespace) -> int:
    from opencompass_llada.runs.timing import run_time

    return run_time(given)


def _add_fidelity(commands: Any) -> None:
    fidelity = commands.add_parser(
        "fidelity",
        help="compare two settings on the same samples: agreement, score difference, passes, time",
        description="Runs a config under two settings, or takes two finished runs, and pairs what "
        "they recorded. A setting is name=value, several times: sampler options and model "
        "keywords, such as cache=prompt num_steps=16. Without any it is the config's own.",
    )
    source = fidelity.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="models and data sets to take from")
    source.add_argument("--runs", nargs=2, type=Path, help="folders of two finished runs")
    fidelity.add_argument("--first", nargs="*", default=[], help="one setting")
    fidelity.add_argument("--second", nargs="+", default=[], help="the other setting")
    fidelity.add_argument("--model", help="the model's abbr; the first by default")
    fidelity.add_argument("--datasets", nargs="+", default=["*"], help="patterns of their abbr")
    fidelity.add_argument("--limit", type=int, help="samples of each data set")
    fidelity.add_argument("--record", type=Path, help="write the figures to this JSON file")
    fidelity.add_argument("-w", "--work-dir", type=Path, default=Path("outputs/fidelity"),
                          help="where the two runs go")  # fmt: skip
    fidelity.set_defaults(run=_run_fidelity)


def _run_fidelity(given: argparse.Namespace) -> int:
    from opencompass_llada.runs.fidelity import run_fidelity

    return run_fidelity(given)


if __name__ == "__main__":
    raise SystemExit(main())
