"""OpenCompass's own data sets end in its table and in the report of this package."""

import json

import pytest
from mmengine.config import ConfigDict
from work_dirs import make_model, ruler_cell, write_run

from opencompass_llada.report.summarizers import SideBySideSummarizer

MODELS = [make_model("one"), make_model("two")]
HOST = "opencompass.openicl"
INFER = {
    "inferencer": {"type": f"{HOST}.icl_inferencer.GenInferencer"},
    "retriever": {"type": f"{HOST}.icl_retriever.ZeroRetriever"},
    "prompt_template": {"type": f"{HOST}.icl_prompt_template.PromptTemplate", "template": "{q}"},
}
CELLS = [
    {
        **ruler_cell("vt", 4096),
        "abbr": abbr,
        "benchmark": None,
        "type": "opencompass.datasets.GSM8KDataset",
        "infer_cfg": INFER,
    }
    for abbr in ("gsm8k", "gsm8k_chat")
]


def test_the_table_and_the_report_are_written_and_a_missing_result_is_an_error(tmp_path):
    run = write_run(tmp_path / "a", MODELS, CELLS)
    config = ConfigDict(models=MODELS, datasets=CELLS, work_dir=str(run))
    told = [{"abbr": "one", "title": "Model One", "trained_length": 512}]
    summarizer = SideBySideSummarizer(config, dataset_abbrs=["gsm8k"], models=told)
    summarizer.summarize("now")
    table = (run / "summary/summary_now.csv").read_text().splitlines()
    assert table[0].endswith(",one,two")
    score = json.loads((run / "results/one/gsm8k.json").read_text())["score"]
    assert f"{score:.2f}" in table[1]
    page = (run / "report/report.html").read_text()
    assert "Model One" in page
    assert "GSM8KDataset" in page
    (run / "results/two/gsm8k.json").unlink()
    with pytest.raises(SystemExit):
        summarizer.summarize("later")
