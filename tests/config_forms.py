"""Reads data set configs by name, in the forms of `opencompass_llada.runs.every_data_set`."""

from pathlib import Path

from mmengine.config import Config

from opencompass_llada.runs.every_data_set import FORMS
from opencompass_llada.runs.settings import only_variables

FOLDER = Path(__file__).resolve().parents[1] / "configs/datasets"
#: Every form, and every file that has none.
NAMES = sorted(
    {path.stem for path in FOLDER.glob("[!_]*.py")} - {file for file, _ in FORMS.values()}
    | set(FORMS)
)


def read_form(name):
    """Return the whole config of a form, whose one list of data sets is named after its file."""
    file, variables = FORMS.get(name, (name, {}))
    with only_variables(variables):
        cfg = Config.fromfile(str(FOLDER / f"{file}.py"), format_python_code=False)
    assert [key for key in cfg if key.endswith("_datasets")] == [f"{file}_datasets"]
    return cfg


def cells_of(name):
    """Return the data set configs of a form."""
    cfg = read_form(name)
    return next(cfg[key] for key in cfg if key.endswith("_datasets"))
