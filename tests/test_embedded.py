"""The files in assets/ are what the package's own code generates."""

from __future__ import annotations

import json

import pytest

from opencompass_llada.assets import resolve_asset
from opencompass_llada.synthetic.embedded import HAYSTACK_FILE, NEEDLE_FILE, write_embedded


def test_embedded_files_are_generated_byte_for_byte(tmp_path):
    write_embedded(tmp_path)
    for name in (HAYSTACK_FILE, NEEDLE_FILE):
        shipped = resolve_asset("asset:needlebench") / name
        assert shipped.read_bytes() == (tmp_path / name).read_bytes()


def test_unknown_asset_is_refused_and_only_shipped_folders_are_named():
    with pytest.raises(ValueError, match="Did you mean 'asset:tiny-llada'") as caught:
        resolve_asset("asset:tiny-lada")
    assert "__" not in str(caught.value)


def test_needles_follow_needlebenchs_question_rules():
    lines = (resolve_asset("asset:needlebench") / NEEDLE_FILE).read_text().splitlines()
    needles = [json.loads(line) for line in lines]
    assert len({needle["arg1"] for needle in needles}) == len(needles)
    for needle in needles:
        assert needle["retrieval_question"].endswith("________.'")
        assert "Please answer in the format '" in needle["retrieval_question"]
        assert needle["arg2"] in needle["needle"]
        assert needle["arg2"] not in needle["retrieval_question"]
        assert needle["language"] == "English"
