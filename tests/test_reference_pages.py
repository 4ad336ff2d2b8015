"""The generated parts of docs/reference are what the code says."""

import dataclasses
import sys

import pytest
from conftest import REPOSITORY_ROOT

sys.path.insert(0, str(REPOSITORY_ROOT / "docs_tools"))

import model_tables  # noqa: E402
import reference  # noqa: E402


@pytest.mark.parametrize(
    "page",
    [page for page in reference.PAGES if "<!-- generated: " in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)
def test_generated_parts_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- generated: ") == len(reference.PART.findall(text)), "a lacking end"
    assert reference.rewrite(text) == text, "run `python docs_tools/reference.py --write`"


def test_every_part_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in reference.PAGES)
    names = [match[1] for match in reference.PART.findall(text)]
    assert sorted(names) == sorted([*reference.PARTS, *model_tables.PARTS, "recipe_values"])


def test_a_stale_part_is_found_and_a_field_without_docstring_refused():
    stale = "<!-- generated: chat -->\nold\n<!-- end -->"
    assert "`template`" in reference.rewrite(stale)

    @dataclasses.dataclass
    class Silent:
        told: int = 1
        """Said."""
        silent: int = 2

    assert reference.field_docs(Silent) == {"told": "Said."}
    with pytest.raises(ValueError, match="without a docstring: silent"):
        reference.fields_table(Silent)
    with pytest.raises(ValueError, match="no part 'no'"):
        reference.make_part("no")


def test_models_and_their_facts_are_listed():
    text = (REPOSITORY_ROOT / "docs/reference/models.md").read_text(encoding="utf-8")
    row = "| `llada_8b_base` | GSAI-ML/LLaDA-8B-Base | masked diffusion, base | 4,096"
    assert text.count(row) == 1
