"""What a check found, and how findings are shown. Checks nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: ``ok``; ``note``: absent, and not asked for; ``fetch``: absent, and fetched when it is needed if
#: there is a network; ``fault``: broken, or asked for and absent.
LEVELS = ("ok", "note", "fetch", "fault")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    topic: str
    """What was looked at."""
    level: str
    """One of `LEVELS`."""
    text: str
    """What was found."""
    remedy: str = ""
    """The command, or the one change, that mends it; for every fault."""

    def __post_init__(self) -> None:
        """Require a remedy where something is wrong."""
        assert self.level in LEVELS, self.level
        assert self.remedy or self.level in ("ok", "note"), f"{self.topic} lacks a remedy"


def write_report(findings: Sequence[Finding]) -> str:
    """Return the findings as text, one line each, with the remedy under what is not in order."""
    signs = {"ok": "ok   ", "note": "note ", "fetch": "FETCH", "fault": "FAULT"}
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.level]}  {finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width + 9}}-> {finding.remedy}")
    faults = sum(finding.level == "fault" for finding in findings)
    lines.append(f"{faults} faults" if faults else "Nothing is broken that was asked for.")
    return "\n".join(lines) + "\n"
