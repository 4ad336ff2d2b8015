"""States what is known of L-Eval: its twenty tasks, averages and files.

From OpenLMLab/LEval (arXiv 2307.11088): tasks and kinds from its README, wordings for base models
from ``Baselines/LEval_config.py`` and ``longchat-test.py``, averages from the paper's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opencompass_llada.benchmarks.benchmark import Group
from opencompass_llada.benchmarks.published.suite import Suite


@dataclass(frozen=True, kw_only=True)
class LEvalTask:
    """One task."""

    title: str
    """Its name in the paper."""
    kind: str
    """``exam``, ``f1`` or ``rouge``, as the published rows say."""
    metric: str
    """A key of `scoring.METRICS`."""
    answer_length: int
    """Tokens of an answer, OpenCompass's; the authors give every task 512."""
    stock: str | None
    """OpenCompass's config, below ``opencompass.configs.datasets.leval``; None where it has none,
    for the two tasks that were added to L-Eval later."""
    form: str = ""
    """A key of `FORMS`; by default that of its kind."""
    instruction: str = ""
    """What stands at the beginning; by default that of its kind."""
    chance: float | None = None
    """Score of a guess, 0 to 100; that of several right options depends on their number."""


@dataclass(frozen=True)
class Form:
    """How a base model is asked."""

    before: str
    """Between instruction and document."""
    after: str
    """After it: the question."""
    begins: str
    """The answer's beginning."""


#: Ways to put a document and a question.
FORMS = {
    "exam": Form("Document is as follows. ", "\nQuestion: {question}", "\nAnswer:"),
    "open": Form(
        "Document is as follows. ",
        "\nInstruction: {question} The suggested output length is around {length} words.",
        "\nAnswer:",
    ),
    "plain": Form("", "\n\n{question}", ""),
    "talk": Form("", "\n\n{question}", "\n ASSISTANT:"),
}
_EXAM = (
    "Now you are given a very long document. Please follow the instruction based on this document. "
    "For multi-choice questions, there is only a single correct option. Please only provide the "
    "letter corresponding to the answer (like A or B) when answering. For other questions, please "
    "directly give the concise and accurate answer."
)
_COURSERA = (
    "Now you are given a very long document. Please follow the instruction based on this document. "
    "For multi-choice questions, there could be a single correct option or multiple correct "
    "options. Please only provide the letter corresponding to the answer (like A or AB) when "
    "answering."
)
_OPEN = (
    "Now you are given a very long document. Please follow the instruction after this document. "
    "These instructions may include summarizing a document, answering questions based on the "
    "document, or writing a required paragraph."
)
_GSM = (
    "Given several question answer pairs, you need to follow a similar format to answer the last "
    "question. Make sure the response is end with The answer is _ ."
)
_TOPICS = (
    "Below is a record of our previous conversation on many different topics. You are the "
    "ASSISTANT, and I am the USER. At the beginning of each topic, the USER will say 'I would like "
    "to discuss the topic of <TOPIC>'. Memorize each <TOPIC>. At the end of the record, I will ask "
    "you to retrieve the first/second/third topic names. Now the record start."
)
_CODE = (
    "Now you are given a code base consisting of a large amount of functions and the corresponding "
    "comments. In the end, I will call some functions defined in the code base. Please carefully "
    "read these codes and comments and answer the question."
)
_FICTION = (
    "Now you are given a scientific fiction. I will ask you some questions and the answer should "
    'be "True" or "False". Notice that you should answer the question based on the evidence in the '
    "document instead of your background knowledge."
)


def _exam(title: str, metric: str, length: int, stock: str | None, **more: Any) -> LEvalTask:
    options = {"form": "exam", "instruction": _EXAM, **more}
    return LEvalTask(
        title=title, kind="exam", metric=metric, answer_length=length, stock=stock, **options
    )


def _open(title: str, kind: str, length: int, stock: str) -> LEvalTask:
    return LEvalTask(
        title=title, kind=kind, metric=kind, answer_length=length, stock=stock, form="open",
        instruction=_OPEN,
    )  # fmt: skip


#: Task -> what is known of it. A task is called as its file.
TASKS: dict[str, LEvalTask] = {
    "coursera": _exam(
        *("Coursera", "several_choices", 10, "levalcoursera.leval_coursera_gen_36a006"),
        instruction=_COURSERA,
    ),
    "gsm100": _exam(
        *("GSM (16-shot)", "worked_number", 512, "levalgsm100.leval_gsm100_gen_77dd94"),
        form="plain",
        instruction=_GSM,
    ),
    "quality": _exam(
        *("QuALITY", "single_choice", 10, "levalquality.leval_quality_gen_36a006"), chance=25.0
    ),
    "tpo": _exam(*("TOEFL", "single_choice", 10, "levaltpo.leval_tpo_gen_36a006"), chance=25.0),
    "codeU": _exam("CodeU", "program_output", 512, None, form="plain", instruction=_CODE),
    "sci_fi": _exam("SFiction", "true_or_false", 16, None, instruction=_FICTION, chance=50.0),
    "topic_retrieval_longchat": _exam(
        *("TopicRet", "exact_match", 30, "levaltopicretrieval.leval_topic_retrieval_gen_bf433f"),
        form="talk",
        instruction=_TOPICS,
    ),
    "financial_qa": _open("LongFQA", "f1", 512, "levalfinancialqa.leval_financialqa_gen_b03798"),
    "legal_contract_qa": _open(
        "CUAD", "f1", 128, "levallegalcontractqa.leval_legalcontractqa_gen_68a2ac"
    ),
    "multidoc_qa": _open("MultiDoc2Dial", "f1", 64, "levalmultidocqa.leval_multidocqa_gen_96bf3f"),
    "narrative_qa": _open("NarrativeQA", "f1", 50, "levalnarrativeqa.leval_narrativeqa_gen_766dd0"),
    "natural_question": _open(
        "NQ", "f1", 50, "levalnaturalquestion.leval_naturalquestion_gen_52c33f"
    ),
    "scientific_qa": _open("Qasper", "f1", 64, "levalscientificqa.leval_scientificqa_gen_96bf3f"),
    "gov_report_summ": _open(
        "GovReport", "rouge", 512, "levalgovreportsumm.leval_gov_report_summ_gen_b03798"
    ),
    "meeting_summ": _open("QMSum", "rouge", 512, "levalmeetingsumm.leval_meetingsumm_gen_b03798"),
    "news_summ": _open("Multi-news", "rouge", 512, "levalnewssumm.leval_newssumm_gen_b03798"),
    "paper_assistant": _open(
        "Openreview", "rouge", 512, "levalpaperassistant.leval_paper_assistant_gen_b03798"
    ),
    "patent_summ": _open("BigPatent", "rouge", 512, "levalpatentsumm.leval_patent_summ_gen_b03798"),
    "review_summ": _open("SPACE", "rouge", 512, "levalreviewsumm.leval_review_summ_gen_b03798"),
    "tv_show_summ": _open(
        "SummScreen", "rouge", 512, "levaltvshowsumm.leval_tvshow_summ_gen_b03798"
    ),
}
#: Of the paper's average over exams, which leaves out the retrieval of topics.
EXAMS = ("coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi")


def list_files(task: str) -> str:
    """Return where a task's file may lie: as on the hub, in the repository, or bare."""
    closed = TASKS[task].kind == "exam"
    hub, repository = ("Exam", "Closed") if closed else ("Generation", "Open")
    folders = (f"LEval/{hub}/", f"LEval-data/{repository}-ended-tasks/", f"{hub}/", "")
    return "|".join(f"{folder}{task}.jsonl" for folder in folders)


def _find_files(cell: Mapping[str, Any]) -> list[str]:
    return [list_files(str(cell["task"]))]


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(name for name, task in TASKS.items() if task.kind == kind)


SUITE = Suite(
    name="leval",
    title="L-Eval",
    source=(
        "L-Eval (arXiv 2307.11088): Exams is its average of six closed tasks, F1 and ROUGE-L those "
        "of the open ones"
    ),
    tasks={name: task.answer_length for name, task in TASKS.items()},
    path="data/LEval",
    folder="data/LEval",
    fetch="hf download L4NLP/LEval --repo-type dataset --local-dir FOLDER",
    find_files=_find_files,
    dataset="leval.dataset.LEvalDataset",
    evaluator="leval.dataset.LEvalEvaluator",
    has_more_metrics=True,
    groups=(
        Group(name="Exams", members=EXAMS),
        Group(name="F1", members=_of_kind("f1")),
        Group(name="ROUGE-L", members=_of_kind("rouge")),
    ),
)
BENCHMARKS = (SUITE.benchmark(),)
