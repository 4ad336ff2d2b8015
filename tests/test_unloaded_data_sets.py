"""A data set that cannot be loaded costs its own cells alone, and is no bug of this package."""

from copy import deepcopy
from urllib.error import URLError

import pytest
from mmengine.config import Config
from test_lost_predictions import make_run

from opencompass_llada.runs import tasks


@pytest.mark.parametrize("error", [URLError("no network"), ValueError("a torn row")])
def test_other_data_sets_of_the_task_are_answered(tmp_path, monkeypatch, error):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = make_run("niah_embedded", tmp_path)
    (cell,) = run["datasets"]
    absent = deepcopy(cell) | {"abbr": "absent", "path": "opencompass/absent"}
    run["datasets"] = [[absent, cell]]
    build = tasks.build_dataset_from_cfg

    def load(cfg):
        if cfg["abbr"] == "absent":
            raise error
        return build(cfg)

    monkeypatch.setattr(tasks, "build_dataset_from_cfg", load)
    with pytest.raises(RuntimeError) as caught:
        tasks.ShortNamedInferTask(Config(run)).run()
    text = str(caught.value)
    assert text.startswith("Data set absent (path='opencompass/absent') could not be loaded: ")
    assert type(error).__name__ in text
    assert str(error) in text
    assert ("COMPASS_DATA_CACHE" in text) == isinstance(error, OSError)
    made = {path.name for path in (tmp_path / "predictions" / "model").glob("*.json")}
    assert made == {f"{cell['abbr']}.json"}
