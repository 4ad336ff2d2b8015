"""The final prompt string of one sample of each RULER task, as the model receives it.

``python tests/ruler_goldens.py`` writes tests/goldens/ruler again (qa needs COMPASS_DATA_CACHE).
Essays are the embedded ones. A document of SQuAD or HotpotQA is written as its length and digest:
no text of theirs is in the repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "goldens" / "ruler"

#: Tokens of tiny-llada's tokenizer; near the smallest that fit.
LENGTHS = {"vt": 600, "cwe": 1200, "qa_squad": 900, "qa_hotpotqa": 4000}
DEFAULT_LENGTH = 480


def final_prompt(task: str, *, data: str = "embedded", path: str | None = None) -> str:
    """Return what a base model gets for the first sample of a task."""
    from mmengine.config import ConfigDict
    from opencompass.models.base import LMTemplateParser
    from opencompass.utils import build_dataset_from_cfg

    from opencompass_llada.ruler_patches.ruler import ruler_cells

    cell = ruler_cells(
        [LENGTHS.get(task, DEFAULT_LENGTH)],
        tasks=[task],
        tokenizer="asset:tiny-llada",
        num_samples=1,
        data=data,
        path=path,
        tokens_to_generate=32,
    )[0]
    return render(ConfigDict(cell), build_dataset_from_cfg, LMTemplateParser)


def render(cell, build, parser) -> str:
    """Build a data set and write its first prompt along OpenCompass's own path."""
    from opencompass.registry import ICL_PROMPT_TEMPLATES, ICL_RETRIEVERS

    dataset = build(cell)
    template = ICL_PROMPT_TEMPLATES.build(cell["infer_cfg"]["prompt_template"])
    retriever = ICL_RETRIEVERS.build({**cell["infer_cfg"]["retriever"], "dataset": dataset})
    prompt = retriever.generate_prompt_for_generate_task(0, "", prompt_template=template)
    return parser().parse_template(prompt, "gen")


def hide_documents(prompt: str) -> str:
    """Replace every document of a qa prompt by its length and digest."""

    def replace(match: re.Match) -> str:
        digest = hashlib.sha256(match[2].encode()).hexdigest()[:16]
        return f"{match[1]}<{len(match[2])} characters, sha256 {digest}>{match[3]}"

    pattern = r"(Document \d+:\n)(.*?)(\n\n(?=Document \d+:\n|Answer the question))"
    return re.sub(pattern, replace, prompt, flags=re.DOTALL)


def main() -> None:
    """Write all goldens."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ["OPENCOMPASS_LLADA_CACHE"] = "none"
    from opencompass_llada.datasets.ruler.tasks import TASKS

    FOLDER.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        is_question = task.startswith("qa_")
        prompt = final_prompt(task, data="ruler" if is_question else "embedded")
        text = hide_documents(prompt) if is_question else prompt
        (FOLDER / f"{task}.txt").write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
