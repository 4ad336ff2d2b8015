"""Reads the arguments of ``opencompass-llada COMMAND`` (or ``python -m opencompass_llada.cli``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass_llada import __version__
from opencompass_llada.faults import guard
from opencompass_llada.presets import PRESETS
from opencompass_llada.runs.command_line import NamingParser, find_config

#: Commands that read finished runs: without any they have nothing to show, and end with 2.
_OF_RUNS = ("report", "paper", "export", "watch", "time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; what fails ends in one paragraph (`faults`)."""
    return guard(lambda: _run_command(arguments), program="opencompass-llada")


def _run_command(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:  # its options are OpenCompass's, which its own parser reads
        return _run_config(words[1:])
    given = make_parser().parse_args(words)
    try:
        _check_folders(given)
        return int(given.run(given))
    except ValueError as error:
        if given.command not in _OF_RUNS:
            raise
        sys.stderr.write(f"opencompass-llada {given.command}: {error}\n")
        return 2


def make_parser() -> NamingParser:
    """Return the parser of all commands, for the command line and the page on it."""
    parser = NamingParser(
        prog="opencompass-llada",
        description="Long-context evaluation of masked diffusion language models in OpenCompass.",
        example="opencompass-llada new-config --model ~/my-llada --lengths 4k,32k > my.py\n"
        "opencompass-llada run my.py",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_new_config(commands)
    commands.add_parser("run", help="run a config, with every option of `python run.py`")
    _add_convert(commands)
    doctor = commands.add_parser(
        "doctor",
        help="say what would keep an evaluation from running, and how to fix it",
        example="opencompass-llada doctor --config configs/eval_llada_niah.py",
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
    return parser


def _check_folders(given: argparse.Namespace) -> None:
    """Refuse folders that are not there before anything is imported that takes seconds."""
    one = getattr(given, "work_dir", None) if given.command in ("watch", "time") else None
    for folder in [*getattr(given, "work_dirs", []), *([one] if one else [])]:
        if not Path(folder).exists():
            raise ValueError(f"{folder!r} does not exist; give a run's folder, or one of runs")


def _run_config(words: list[str]) -> int:
    """Run a config as run.py does, under this command's name."""
    sys.argv = ["opencompass-llada run", *words]
    if not words:
        sys.stderr.write("opencompass-llada run: give a config, e.g. one that new-config wrote\n")
        return 2
    from opencompass_llada.runs.machine import check_environment, read_requirements

    check_environment(read_requirements())
    from opencompass_llada.runs.launch import launch

    return launch()


def _add_new_config(commands: Any) -> None:
    new = commands.add_parser(
        "new-config",
        help="write a config that runs your model on the shipped benchmarks",
        description="Writes a config of about ten lines to standard output, or to the file of -o. "
        "`opencompass-llada run FILE` and `opencompass FILE` run it.",
        example="opencompass-llada new-config --model ~/my-llada --benchmarks niah,ruler "
        "--lengths 4k,32k > my.py\nopencompass-llada run my.py",
    )
    told = "names of docs/reference/models.md, PATH, ALIAS=PATH or NAME=PATH; several at commas"
    new.add_argument("--model", action="append", required=True, metavar="MODEL", help=told)
    told = (
        "niah, ruler, ppl, longbench, longbench_e, longbench_v2, short, or a suite of "
        "docs/reference/benchmarks such as babilong; default niah"
    )
    new.add_argument("--benchmarks", default="niah", metavar="NAMES", help=told)
    new.add_argument("--lengths", default="", help="context lengths: tokens, or 4k for 4096")
    new.add_argument("--scaling", default="", metavar="METHODS",
                     help="RoPE scalings, e.g. none,ntk:target_length=32k")  # fmt: skip
    new.add_argument("--chat", action="store_true", help="ask in chat form, for chat models")
    told = f"a faster, approximate way to generate: {', '.join(PRESETS)}"
    new.add_argument("--sampler", metavar="PRESET", help=told)
    new.add_argument("--data", choices=["embedded", "published"],
                     help="embedded: small, shipped, offline; default published")  # fmt: skip
    new.add_argument("--datasets", default="", metavar="NAMES",
                     help="data sets of OpenCompass besides, e.g. gsm8k_gen")  # fmt: skip
    new.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write")
    new.set_defaults(run=_run_new_config)


def _run_new_config(given: argparse.Namespace) -> int:
    from opencompass_llada.runs.new_config import NewConfig

    def split(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    config = NewConfig(
        models=[model for text in given.model for model in split(text)],
        benchmarks=split(given.benchmarks),
        lengths=split(given.lengths),
        scaling=split(given.scaling),
        chat=given.chat,
        sampler=given.sampler,
        data=given.data,
        datasets=split(given.datasets),
    )
    if given.output is None:
        sys.stdout.write(config.write())
        return 0
    if given.output.exists():
        raise ValueError(f"--output {str(given.output)!r} exists; give another file, or remove it")
    given.output.write_text(config.write(), encoding="utf-8")
    sys.stdout.write(f"{given.output} is written; run it: opencompass-llada run {given.output}\n")
    return 0


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="turn pytorch_model.bin, DCP and FSDP checkpoints into safetensors",
        description="Writes OUT, a folder that the other commands load: model.safetensors, config "
        "and tokenizer. Weights are read as tensors alone; no pickled code runs.",
        example="opencompass-llada convert checkpoints/step-1000 my-llada "
        "--config-from GSAI-ML/LLaDA-8B-Base",
    )
    convert.add_argument("source", metavar="IN", help="a checkpoint's folder, or one .bin file")
    convert.add_argument("target", metavar="OUT", help="the folder to write; must not exist")
    convert.add_argument("--config-from", metavar="DIR",
                         help="folder of config.json and tokenizer, where IN has none")  # fmt: skip
    convert.set_defaults(run=_run_convert)


def _run_convert(given: argparse.Namespace) -> int:
    from opencompass_llada.runs.convert import run_convert

    return run_convert(given.source, given.target, given.config_from)


def _run_doctor(given: argparse.Namespace) -> int:
    if given.config is not None:
        find_config(given.config)
    from opencompass_llada.runs.doctor import run_doctor

    return run_doctor(given.config, given.data, given.work_dir)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write the leaderboard of one or several runs: HTML, Markdown, CSV, LaTeX",
        example="opencompass-llada report outputs/monday outputs/tuesday -o report",
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
        "export",
        help="write a model's results in lm-evaluation-harness' results.json",
        example="opencompass-llada export outputs/llada_niah -o results.json --model tiny-llada",
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
        "paper",
        help="write a LaTeX table, figures and a methods paragraph of one or several runs",
        example="opencompass-llada paper outputs/llada_ruler -o paper --columns RULER 'RULER: QA'",
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
        "watch",
        help="show how far a run is, one line a model and benchmark, and its expected end",
        example="opencompass-llada watch outputs/llada_niah",
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
        example="opencompass-llada time outputs/llada_niah --samples 2",
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
        "keywords, such as cache=prompt num_steps=16; sampler=fast is a preset. Without any it is "
        "the config's own.",
        example="opencompass-llada fidelity --config configs/eval_llada_niah.py --second "
        "cache=prompt",
    )
    source = fidelity.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", help="models and data sets to take from")
    source.add_argument("--runs", nargs=2, type=Path, help="folders of two finished runs")
    fidelity.add_argument("--first", nargs="*", default=[], help="one setting")
    fidelity.add_argument("--second", nargs="+", default=[], help="the other setting")
    fidelity.add_argument(
        "--sweep",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME [SETTING]",
        help="one of several named settings, given once for each; all are compared with the first "
        "one, in a table and a picture",
    )
    fidelity.add_argument("--model", help="the model's abbr; the first by default")
    fidelity.add_argument("--datasets", nargs="+", default=["*"], help="patterns of their abbr")
    fidelity.add_argument("--limit", type=int, help="samples of each data set")
    fidelity.add_argument("--record", type=Path, help="write the figures to this JSON file")
    fidelity.add_argument("-w", "--work-dir", type=Path, default=Path("outputs/fidelity"),
                          help="where the two runs go")  # fmt: skip
    fidelity.set_defaults(run=_run_fidelity)


def _run_fidelity(given: argparse.Namespace) -> int:
    if given.sweep:
        from opencompass_llada.runs.frontier import run_sweep

        return run_sweep(given)
    from opencompass_llada.runs.fidelity import run_fidelity

    return run_fidelity(given)


if __name__ == "__main__":
    raise SystemExit(main())
