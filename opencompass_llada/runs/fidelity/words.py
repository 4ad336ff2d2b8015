"""``opencompass-llada fidelity`` on the command line: its words, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_fidelity(commands: Any) -> None:
    """Describe the words of ``fidelity``.

    Args:
        commands: What `argparse.ArgumentParser.add_subparsers` returned.
    """
    fidelity = commands.add_parser(
        "fidelity",
        help="run two settings on the same samples: agreement, score difference, passes, time",
        description="A setting is name=value words: sampler options and model keywords, such as "
        "cache=prompt num_steps=16. Without any it is the config's own.",
    )
    fidelity.add_argument("--config", required=True, help="models and data sets to take from")
    fidelity.add_argument("--first", nargs="*", default=[], help="one setting")
    fidelity.add_argument("--second", nargs="+", required=True, help="the other setting")
    fidelity.add_argument("--model", help="the model's abbr; the config's first by default")
    fidelity.add_argument("--datasets", nargs="+", default=["*"], help="patterns of their abbr")
    fidelity.add_argument("--limit", type=int, help="samples of each data set")
    fidelity.add_argument("--record", type=Path, help="write the figures to this JSON file")
    fidelity.set_defaults(run=run_comparison)


def run_comparison(given: argparse.Namespace) -> int:
    """Compare two settings, print the table and return 2 for words that do not fit.

    Args:
        given: The words of ``fidelity``.
    """
    from opencompass_llada.redaction import refuse_secrets
    from opencompass_llada.runs.checks import check_parts, read_config
    from opencompass_llada.runs.fidelity.command import (
        FidelityRequest,
        run_fidelity,
        write_fidelity_record,
        write_table,
    )
    from opencompass_llada.runs.fidelity.settings import parse_setting

    try:
        if given.record and (given.record.is_dir() or not given.record.parent.is_dir()):
            raise ValueError(f"--record {given.record} must be a file in a folder that there is")
        request = FidelityRequest(
            config=read_config(given.config),
            first=parse_setting(given.first),
            second=parse_setting(given.second),
            model=given.model,
            datasets=given.datasets,
            limit=given.limit,
        )
        refuse_secrets({**request.config, "first": request.first, "second": request.second})
        check_parts(request.config, scores=True)
        found = run_fidelity(request)
    except ValueError as error:
        sys.stderr.write(f"opencompass-llada fidelity: {error}\n")
        return 2
    sys.stdout.write(write_table(found))
    if given.record:
        write_fidelity_record(given.record, request, found)
    return 0
