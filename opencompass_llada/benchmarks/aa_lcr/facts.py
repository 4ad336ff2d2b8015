"""States what is known of AA-LCR (ArtificialAnalysis/AA-LCR on the Hugging Face hub): its files.

100 questions, each over several documents of about 100,000 tokens together. The published score is
a judge model's; what a run without one reports is not.
"""

from __future__ import annotations

from opencompass_llada.benchmarks.published.suite import Suite

CSV_FILE = "AA-LCR_Dataset.csv"
ZIP_FILE = "extracted_text/AA-LCR_extracted-text.zip"
#: Of the environment: OpenCompass's names of the model that judges, and of its key.
JUDGE_VARIABLES = ("OC_JUDGE_MODEL", "OC_JUDGE_API_KEY")
#: OpenCompass leaves the answers' length to the model.
ANSWER_TOKENS = 512
SCORED_BY = ("judge", "overlap")

SUITE = Suite(
    name="aa_lcr",
    title="AA-LCR",
    source="AA-LCR (Artificial Analysis): accuracy by a judge model",
    tasks={"questions": ANSWER_TOKENS},
    path="data/aa_lcr",
    folder="data/aa_lcr",
    fetch="hf download ArtificialAnalysis/AA-LCR --repo-type dataset --local-dir FOLDER",
    find_files=lambda cell: [CSV_FILE, ZIP_FILE],
    dataset="aa_lcr.dataset.AaLcrSuiteDataset",
    evaluator="aa_lcr.scoring.AaLcrSuiteEvaluator",
    fit="keep",
    metrics=("accuracy", "containment"),
    has_more_metrics=True,
)
BENCHMARKS = (SUITE.benchmark(),)
