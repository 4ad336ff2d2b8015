"""The generated parts of docs/reference: checked against the code, or written anew.

    python docs_tools/reference.py            # names the pages that differ from the code
    python docs_tools/reference.py --write    # writes them

In a page such a part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; `PARTS` says
how it is made. Descriptions are the docstrings below the fields of the code's dataclasses.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs_tools")]

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PART = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def field_docs(owner: type) -> dict[str, str]:
    """Return the docstring below each annotated field of a class and its bases, on one line."""
    found: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(one))
        except (OSError, TypeError):
            continue
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for field, after in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                found[field.target.id] = plain(text)  # type: ignore[union-attr]
    return found


def plain(text: str) -> str:
    """Return a docstring as one line of Markdown."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def first_sentence(text: str | None) -> str:
    """Return a docstring's first paragraph as one line of Markdown, without its full stop."""
    return plain((text or "").strip().partition("\n\n")[0]).removesuffix(".")


def show_type(annotation: Any) -> str:
    """Return a type as it is written in the code, without modules."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None)
    text = str(annotation) if text is None or "|" in str(annotation) else text
    return re.sub(r"\b(?:\w+\.)+", "", text).replace("Mapping[str, Any]", "dict")


def show_default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default in code font, or that it is required."""
    if field.default is not dataclasses.MISSING:
        value = field.default
        if dataclasses.is_dataclass(value):
            return f"`{value.type}`" if hasattr(value, "type") else "its defaults"
        return f"`{value!r}`"
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return "its defaults" if dataclasses.is_dataclass(value) else f"`{value!r}`"
    return "required"


def fields_table(owner: Any, only: Sequence[str] = ()) -> str:
    """Return a dataclass's fields: name, type, default and docstring."""
    docs = field_docs(owner)
    fields = [f for f in dataclasses.fields(owner) if not only or f.name in only]
    missing = [f.name for f in fields if not docs.get(f.name)]
    if missing:
        raise ValueError(f"{owner.__name__}: fields without a docstring: {', '.join(missing)}")
    return make_table(
        ["name", "meaning", "type", "default"],
        ([f"`{f.name}`", docs[f.name], f"`{show_type(f.type)}`", show_default(f)] for f in fields),
    )


def keywords(first: str, last: str) -> str:
    """Return the table of the wrapper's keywords between two of them."""
    from opencompass_llada.wrapper.keywords import Keywords

    names = [field.name for field in dataclasses.fields(Keywords)]
    return fields_table(Keywords, names[names.index(first) : names.index(last) + 1])


def scalings() -> str:
    """Return the options of each RoPE scaling."""
    from opencompass_llada.rope.methods import SCALING_TYPES

    rows = []
    for name, method in SCALING_TYPES.items():
        options = [
            f"`{f.name}`" + (f" ({show_default(f)})" if f.default is not None else "")
            for f in dataclasses.fields(method)
        ]
        rows.append([f"`{name}`", first_sentence(method.__doc__), ", ".join(options)])
    return make_table(["type", "what it does", "options (default, where there is one)"], rows)


def presets() -> str:
    """Return what each preset of the sampler stands for."""
    from opencompass_llada.presets import PRESETS, split_options, write_options

    rows = [
        [f"`{name}`", *(f"`{own}`" if (own := write_options(part)) else "" for part in parts)]
        for name, parts in ((name, split_options(own)) for name, own in PRESETS.items())
    ]
    return make_table(["preset", "options of the sampler", "keywords of the model"], rows)


def settings_tables() -> str:
    """Return the LLADA_* variables: those of all runs, then each benchmark's own."""
    from opencompass_llada.runs import reductions
    from opencompass_llada.runs import settings as all_settings

    common = {
        **all_settings.LEADING,
        **all_settings.BATCH_SIZE,
        **all_settings.WORKERS,
        **all_settings.READ_BY,
        **all_settings.TRAILING,
        **reductions.SETTINGS,
    }
    parts = ["### Every benchmark\n\n" + settings_table(common)]
    for name, settings in run_settings().items():
        own = {key: value for key, value in settings.items() if key not in common}
        parts.append(f"### {name}\n\n" + settings_table(own))
    return "\n" + "\n".join(parts) + "\n"


def run_settings() -> dict[str, Mapping[str, Any]]:
    """Return the settings of each main config, by its name."""
    from opencompass_llada.benchmarks.generated.plan import list_settings as generated
    from opencompass_llada.benchmarks.published.run import list_settings as published

    settings = {name: plan.settings for name, plan in plans().items()}
    return {
        **settings,
        "eval_llada_suites.py": generated(),
        "eval_llada_published_suites.py": published(),
    }


def plans() -> dict[str, Any]:
    """Return the plan of each benchmark's run, by the main config's name."""
    from opencompass_llada.benchmarks.longbench.plan import PLAN as LONG
    from opencompass_llada.benchmarks.needle.plan import PLAN as NEEDLE
    from opencompass_llada.benchmarks.perplexity.plan import PLAN as PERPLEXITY
    from opencompass_llada.benchmarks.ruler.plan import PLAN as RULER
    from opencompass_llada.benchmarks.short.plan import PLAN as SHORT

    return {
        "eval_llada_niah.py": NEEDLE,
        "eval_llada_ruler.py": RULER,
        "eval_llada_long.py": LONG,
        "eval_llada_ppl.py": PERPLEXITY,
        "eval_llada_short.py": SHORT,
    }


def settings_table(settings: Mapping[str, Any]) -> str:
    """Return a table of variables."""

    def kind(setting: Any) -> str:
        one = ", ".join(f"`{c}`" for c in setting.choices) or (
            f"number from {setting.lowest}" if setting.is_number else "text"
        )
        return f"list of: {one}" if setting.is_list else one

    rows = (
        [f"`LLADA_{n.upper()}`", kind(s), s.text.replace("|", "/")] for n, s in settings.items()
    )
    return make_table(["variable", "value", "meaning"], rows)


def families() -> str:
    """Return fields of config.json and names of tensors of each family with a network here."""
    import torch

    from opencompass_llada.networks import NETWORKS

    parts = []
    for name, network in NETWORKS.items():
        owner = network.config_class
        docs, optional = field_docs(owner), owner.optional
        rows = []
        for field, kind in owner.published_fields().items():
            free = field in optional or "None" in show_type(kind)
            value = getattr(owner, field, None)
            rows.append(
                [
                    f"`{field}`",
                    f"`{show_type(kind)}`",
                    "may be left out" if free else "required",
                    f"`{value!r}`" if field != "rope_theta" else f"`{owner.default_theta!r}`",
                    docs.get(field, ""),
                ]
            )
        fixed = ([f"`{f}`", " or ".join(f"`{v!r}`" for v in vs)]
                 for f, vs in sorted(owner.implemented.items()))  # fmt: skip
        ignored = [f"`{field}`" for field in sorted(owner.without_effect)]
        with torch.device("meta"):
            tensors = network(owner(mask_token_id=0)).state_dict()
        parts.append(
            f"## {owner.published_by} (`model_type: {name}`)\n\n"
            + make_table(["field", "type", "", "published value", "meaning"], rows)
            + "\nFields that must have one value, because the network does nothing else:\n\n"
            + make_table(["field", "value"], fixed)
            + f"\nFields that have no effect: {', '.join(ignored)}.\n"
            + "\nTensors, with their shapes in the published model:\n\n"
            + make_table(["tensor", "shape"], tensor_rows(tensors))
        )
    return "\n" + "\n".join(parts) + "\n"


def tensor_rows(tensors: Mapping[str, Any]) -> list[list[str]]:
    """Return names and shapes; layers and experts of one kind share a row."""
    found: dict[tuple[str, str], None] = {}
    for name, tensor in tensors.items():
        label = re.sub(r"\.\d+\.", ".N.", re.sub(r"\.\d+\.", ".N.", name, count=1), count=1)
        found[label, " x ".join(f"{n:,}" for n in tensor.shape)] = None
    return [[f"`{name}`", shape] for name, shape in found]


def config_names(folder: str) -> str:
    """Return the files of a folder of configs/, each with its first sentence."""
    rows = []
    for path in sorted((ROOT / "configs" / folder).glob("*.py")):
        if path.name[0] != "_":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            told = re.sub(r"^`--\w+ \w+`: ", "", first_sentence(text))
            rows.append([f"`{path.stem}`", told])
    return make_table(["name", "what it is"], rows)


def suite_levels() -> str:
    """Return what each level of each generated suite asks."""
    from opencompass_llada.benchmarks.generated.task import find_task, list_suites

    rows = [
        [f"`{name}`" if level == 1 else "", str(level), phrase]
        for name in list_suites()
        for level, phrase in sorted(find_task(name).levels.items())
    ]
    return make_table(("suite", "level", "what is asked"), rows)


def command_line() -> str:
    """Return the options of each command."""
    from opencompass_llada import cli

    parser = cli.make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    help_of = {choice.dest: choice.help for choice in commands._choices_actions}
    parts = []
    for name, command in commands.choices.items():
        told = plain(command.description or help_of[name] or "").replace("%(prog)s", name)
        rows = []
        for action in command._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            label = ", ".join(f"`{o}`" for o in action.option_strings) or f"`{action.metavar}`"
            if action.choices:
                label += f" {', '.join(map(str, action.choices))}"
            elif action.option_strings and action.nargs != 0:
                label += f" `{action.metavar or action.dest.upper()}`"
            if not action.option_strings and not action.metavar:
                label = f"`{action.dest}`"
            rows.append([label, plain((action.help or "").replace("%%", "%"))])
        example = textwrap.dedent((command.epilog or "").partition(":\n")[2])
        parts.append(
            f"## {name}\n\n{told[:1].upper() + told[1:].removesuffix('.')}.\n\n"
            + (f"```\n{example}\n```\n\n" if example else "")
            + (make_table(["argument", "meaning"], rows) if rows else "")
        )
    return "\n" + "\n".join(parts) + "\n"


def wrapper_parts() -> dict[str, Callable[[], str]]:
    """Return the parts on dataclasses of the core, which import torch."""

    def of(module: str, name: str) -> Callable[[], str]:
        import importlib

        return lambda: fields_table(getattr(importlib.import_module(module), name))

    return {
        "sampler": of("opencompass_llada.sampling", "SamplerConfig"),
        "cache": of("opencompass_llada.sampling.block_cache", "CacheOptions"),
        "acceptance": of("opencompass_llada.sampling.unmasking", "AcceptanceOptions"),
        "prefill": of("opencompass_llada.inference", "PrefillOptions"),
        "likelihood": of("opencompass_llada.likelihood", "LikelihoodOptions"),
        "chat": of("opencompass_llada.prompting.chat", "ChatOptions"),
    }


PARTS: dict[str, Callable[[], str]] = {
    "keywords": lambda: keywords("path", "peft_kwargs"),
    "paper_keywords": lambda: keywords("scaling_config", "pad_token_id"),
    "host_keywords": lambda: keywords("meta_template", "generation_kwargs"),
    **wrapper_parts(),
    "scalings": scalings,
    "presets": presets,
    "variables": settings_tables,
    "families": families,
    "data_set_names": lambda: config_names("datasets"),
    "summarizer_names": lambda: config_names("summarizers"),
    "suite_levels": suite_levels,
    "command_line": command_line,
}


@functools.cache
def make_part(name: str) -> str:
    """Return a generated part."""
    import model_tables
    import recipe_values

    makers = PARTS | model_tables.PARTS | {"recipe_values": recipe_values.recipe_values}
    if name not in makers:
        raise ValueError(f"no part {name!r} in docs_tools/reference.py: {', '.join(makers)}")
    return makers[name]()


def rewrite(text: str) -> str:
    """Return a page with its generated parts as the code has them."""
    return PART.sub(lambda match: match[1] + make_part(match[2]) + match[4], text)


def main() -> None:
    """Name the pages that differ from the code, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write what differs")
    given = parser.parse_args()
    differing = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        if (new := rewrite(old)) != old:
            differing.append(str(page.relative_to(ROOT)))
            if given.write:
                page.write_text(new, encoding="utf-8")
    if differing and not given.write:
        sys.exit(f"differ from the code, --write writes them: {', '.join(differing)}")


if __name__ == "__main__":
    main()
