"""The command line: ``opencompass-llada COMMAND``, or ``python -m opencompass_llada.cli COMMAND``.

Reads arguments, prints reports and sets the exit status; what it prints is worked out elsewhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from opencompass_llada.faults import guard
from opencompass_llada.report.commands import add_commands
from opencompass_llada.runs.doctor.machine import Finding, write_report
from opencompass_llada.runs.fidelity.words import add_fidelity


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; whatever fails ends in one paragraph (`faults.guard`).

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    return guard(lambda: _run_command(arguments), program="opencompass-llada")


def _run_command(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="opencompass-llada",
        description="Long-context evaluation of masked diffusion language models in OpenCompass.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor", help="say what would keep an evaluation from running, and what mends it"
    )
    doctor.add_argument(
        "--config", help="check what this config needs, e.g. configs/eval_llada_niah.py"
    )
    doctor.add_argument(
        "--data",
        default="",
        help="benchmarks whose files must be there, separated by commas",
    )
    doctor.add_argument("-w", "--work-dir", default="outputs", help="where results will go")
    doctor.set_defaults(run=lambda asked: run_doctor(asked.config, asked.data, asked.work_dir))
    add_commands(commands)
    add_fidelity(commands)
    given = parser.parse_args(arguments)
    return int(given.run(given))


def run_doctor(config: str | None, data: str, work_dir: str) -> int:
    """Check everything, print the report and return 1 if anything is broken that was asked for.

    Args:
        config: A config file, or None.
        data: Benchmarks that must be there, separated by commas.
        work_dir: Where results will go.
    """
    from opencompass_llada.options import reject_unknown
    from opencompass_llada.runs.doctor.data import listed_data_files

    asked = [name.strip() for name in data.split(",") if name.strip()]
    try:
        reject_unknown("benchmark", asked, listed_data_files())
    except ValueError as error:
        sys.stderr.write(f"opencompass-llada doctor: {error}\n")
        return 2
    findings = list(examine(config, asked, Path(work_dir)))
    sys.stdout.write(write_report(findings))
    return int(any(finding.level == "fault" for finding in findings))


def examine(config: str | None, asked: Sequence[str], work_dir: Path) -> Iterator[Finding]:
    """Yield all findings; what needs the packages is left out where they do not fit.

    Args:
        config: A config file, or None.
        asked: Benchmarks whose files must be there.
        work_dir: Where results will go.
    """
    from opencompass_llada.runs.doctor import machine

    checkout = Path(__file__).resolve().parents[1]
    packages = list(
        machine.check_packages(checkout if (checkout / "requirements.txt").is_file() else None)
    )
    yield from packages
    yield from machine.check_disk(work_dir)
    if any(finding.level == "fault" for finding in packages):
        return
    yield from machine.check_gpu()
    yield from machine.check_attention()
    yield from examine_data(asked)
    if config is not None:
        yield from examine_config(config)


def examine_data(asked: Sequence[str]) -> Iterator[Finding]:
    """Yield findings on every benchmark's files and GPT-4's tokenizer file.

    Args:
        asked: Benchmarks whose absence is a fault.
    """
    from opencompass_llada.runs.doctor.data import check_files, check_tiktoken, listed_data_files

    cache = os.environ.get("COMPASS_DATA_CACHE")
    missing = bool(cache) and not Path(str(cache)).is_dir()
    yield Finding(
        topic="data",
        level="fault" if missing else ("ok" if cache else "note"),
        text=f"COMPASS_DATA_CACHE={cache}" + (", which is no folder" if missing else "")
        if cache
        else "COMPASS_DATA_CACHE is not set: real data is looked for in OpenCompass's own cache",
        remedy=f"mkdir -p {cache}   # or correct the variable" if missing else "",
    )
    for name, own in listed_data_files().items():
        yield check_files(name, own.path, own.files, asked=name in asked)
    yield check_tiktoken(asked=False)


def examine_config(config: str) -> Iterator[Finding]:
    """Yield findings on what a config needs.

    Args:
        config: A config file.
    """
    from opencompass_llada.runs import checks
    from opencompass_llada.runs.doctor.data import check_needs, how_to_get

    remedy = f"correct {config}, or the LLADA_* variable that it names"
    if not Path(config).is_file():
        yield Finding(
            topic="config", level="fault", text=f"no file {config}", remedy="ls configs/eval_*.py"
        )
        return
    try:
        cfg = checks.read_config(config)
    except ValueError as error:
        command = how_to_get(getattr(error, "topic", ""))
        yield Finding(topic="config", level="fault", text=str(error), remedy=command or remedy)
        return
    try:
        checks.check_file_names(cfg)
        checks.check_parts(cfg, scores=True)
        checks.check_options(cfg, runs_locally=True)
        yield Finding(topic="config", level="ok", text=f"{config}: models and data sets fit")
    except ValueError as error:
        text = f"{config}: {error}"
        yield Finding(topic="config", level="fault", text=text, remedy=remedy)
        return
    needs = list(check_needs(cfg))
    yield from needs
    if any(finding.level == "fault" for finding in needs):
        return
    try:
        checks.check_data(cfg)
    except ValueError as error:
        command = how_to_get(getattr(error, "topic", ""))
        yield Finding(
            topic="data", level="fault", text=str(error), remedy=command or "correct the file"
        )


if __name__ == "__main__":
    raise SystemExit(main())
