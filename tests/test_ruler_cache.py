"""RULER's samples on disk: read back alike, never of another set, never half of a file."""

import json
import shutil

import pytest
from ruler_data import write_ruler

from opencompass_llada.assets import resolve_asset
from opencompass_llada.benchmarks.ruler import samples
from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
from opencompass_llada.benchmarks.ruler.prompts import RulerSpec
from opencompass_llada.benchmarks.ruler.samples import build_samples
from opencompass_llada.files import user_cache

TOKENIZER = "asset:tiny-llada"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path))
    assert user_cache("ruler") == tmp_path / "ruler"
    return tmp_path / "ruler"


def make(**options):
    spec = RulerSpec(**{"task": "vt", "length": 800, "num_samples": 2, **options})
    return build_samples(spec, RulerDataset.store.tokenizer(options.get("tokenizer", TOKENIZER)))


def files(folder):
    return sorted(folder.iterdir())


@pytest.fixture
def generations(monkeypatch):
    """Count how often samples are really made."""
    made = []
    original = samples._generate
    monkeypatch.setattr(samples, "_generate", lambda *given: (made.append(1), original(*given))[1])
    return made


def test_read_back_alike(folder, generations):
    first = make()
    assert make() == first
    assert len(generations) == 1
    assert [path.name.split("_")[:2] for path in files(folder)] == [["vt", "800"]]


def test_every_option_has_a_file_of_its_own(folder):
    base = {"task": "niah_single_1"}
    others = [
        {},
        {"num_samples": 3},
        {"length": 801},
        {"seed": 1},
        {"tokens_to_generate": 20},
        {"task": "niah_multikey_2"},
    ]
    for other in others:
        make(**{**base, **other})
    assert len(files(folder)) == len(others)


def test_chat_prompts_are_those_of_base_models_where_no_template_is_counted(folder, generations):
    assert make(chat=True) == make(chat=False)
    assert len(generations) == 1


def test_a_template_that_is_counted_is_part_of_the_key(folder, generations, tmp_path):
    path = tmp_path / "chat"
    shutil.copytree(resolve_asset(TOKENIZER), path)
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %} and so" + " on" * 99
    (path / "chat_template.jinja").write_text(template)
    plain, chat = (make(chat=chat, tokenizer=str(path)) for chat in (False, True))
    assert len(generations) == len(files(folder)) == 2
    assert len(chat[0].prompt) < len(plain[0].prompt)


def test_the_tokenizer_and_not_its_path_is_part_of_the_key(folder, generations, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(resolve_asset(TOKENIZER), copy)
    make()
    make(tokenizer=str(copy))
    assert len(generations) == 1, "the same tokenizer elsewhere makes the same samples"
    changed = tmp_path / "changed"
    shutil.copytree(copy, changed)
    content = json.loads((changed / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (changed / "tokenizer.json").write_text(json.dumps(content))
    make(tokenizer=str(changed))
    assert len(generations) == 2


def test_changed_data_makes_other_samples(folder, generations, tmp_path):
    data = write_ruler(tmp_path / "data")
    options = {"task": "niah_single_2", "path": str(data)}
    first = make(**options)
    essays = data / "PaulGrahamEssays.jsonl"
    essays.write_text(essays.read_text().replace("amber", "copper"))
    assert make(**options) != first
    assert len(generations) == 2


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_half_a_file_is_made_again(folder, generations, keep):
    first = make(num_samples=20)
    path = files(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert make(num_samples=20) == first
    assert len(generations) == 2
    assert make(num_samples=20) == first
    assert len(generations) == 2
    assert len(files(folder)) == 1, "nothing temporary is left"


def test_a_file_of_another_set_is_not_taken(folder, generations):
    make()
    path = files(folder)[0]
    make(seed=1)
    other = next(p for p in files(folder) if p != path)
    other.replace(path)
    make()
    assert len(generations) == 3


def test_nothing_is_kept_where_it_is_switched_off(folder, generations, monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    assert make() == make()
    assert len(generations) == 2
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch, caplog):
    import logging

    monkeypatch.setattr(logging.getLogger("opencompass_llada"), "propagate", True)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path / "file"))
    assert len(make()) == 2
    assert "OPENCOMPASS_LLADA_CACHE" in caplog.text


def test_the_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENCOMPASS_LLADA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("ruler") == tmp_path / "opencompass_llada" / "ruler"
