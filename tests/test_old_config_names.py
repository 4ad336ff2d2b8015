"""Names of earlier versions: what docs/reference/config_names.md gives makes the same config.

tests/old_config_names.json holds hashes of what the files of those names gave, classes by their
names alone, as tests/photograph.py writes them.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from photograph import plain

ROOT = Path(__file__).resolve().parents[1]
#: Names that are still there and mean another thing: needles are drawn for each cell by default.
CHANGED = {"datasets niah_embedded", "datasets multi_needle_embedded"}
HASHES = json.loads((ROOT / "tests/old_config_names.json").read_text())
ROW = re.compile(r"^\| `(\w+)` \| `(.*)--(datasets|models) (\w+)` \|$", re.MULTILINE)
WRITTEN = {
    f"{kind} {old}": (kind, name, variables)
    for old, variables, kind, name in ROW.findall(
        (ROOT / "docs/reference/config_names.md").read_text()
    )
}


@pytest.mark.parametrize("old", HASHES)
def test_the_way_of_writing_it_now_gives_the_same(old, monkeypatch):
    kind, name = old.split()
    kind, name, variables = WRITTEN.get(old, (kind, name, ""))
    for variable in [v for v in os.environ if v.startswith("LLADA_") or v == "TOKENIZER_MODEL"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for assignment in variables.split():
        monkeypatch.setenv(*assignment.split("=", 1))
    cfg = Config.fromfile(str(ROOT / f"configs/{kind}/{name}.py"), lazy_import=True).to_dict()
    [value] = [cfg[key] for key in cfg if key == "models" or key.endswith("_datasets")]
    text = json.dumps(plain(value), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == HASHES[old]


def test_every_old_name_has_its_row_and_no_other():
    files = {f"{path.parent.name} {path.stem}" for path in (ROOT / "configs").glob("*/[!_]*.py")}
    assert set(WRITTEN) == {old for old in HASHES if old not in files} | CHANGED
    assert {f"{kind} {name}" for kind, name, _ in WRITTEN.values()} <= files
