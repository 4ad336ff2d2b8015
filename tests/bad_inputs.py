# ruff: noqa: E501  (a table: one case a line)
"""Inputs that an evaluation has to refuse, in one table: what is given, and words of the refusal.

A case is run by `run_case` as a user would: a config file and a command line through
`runs.launch` (OpenCompass's own main, nothing started), or a command of ``opencompass-llada``.
Each must end in one paragraph that names the value or file, and not with status 0.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import work_dirs

from opencompass_llada import cli
from opencompass_llada.runs import launch as launch_module

CONFIG = """
models = [dict(type='opencompass_llada.wrapper.LLaDACausalLM', abbr='tiny', max_out_len=16,
               sampler=dict(block_length=8, num_steps=8), run_cfg=dict(num_gpus=0))]
datasets = [dict(type='opencompass_llada.benchmarks.{kind}', abbr='data',
    reader_cfg=dict(input_columns=['prompt'], output_column='answer'),
    infer_cfg=dict(prompt_template=dict(type='opencompass_llada.benchmarks.opencompass_bases.LiteralPromptTemplate'),
                   retriever=dict(type='opencompass.openicl.icl_retriever.ZeroRetriever'),
                   inferencer=dict(type='opencompass.openicl.icl_inferencer.GenInferencer')),
    eval_cfg=dict(evaluator=dict(type='opencompass_llada.benchmarks.needle.dataset.NeedleBenchEvaluator')))]
models[0]['path'] = {checkpoint!r}
datasets[0].update({cell!r})
model, dataset = models[0], datasets[0]
{change}
del model, dataset
"""
NEEDLE_CELL: Mapping[str, Any] = {
    "path": "asset:needlebench",
    "length": 400,
    "depth": 50,
    "tokenizer": "asset:tiny-llada",
    "file_list": ["synthetic_en.jsonl"],
    "num_repeats_per_file": 1,
    "length_buffer": "fit",
    "guide": False,
    "language": "English",
}
#: Kind of data set: its class, and the keywords of a sound one.
CELLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "needle": ("needle.dataset.NeedleBenchSingleDataset", NEEDLE_CELL),
    "multi": (
        "multi_needle.dataset.MultiNeedleRetrievalDataset",
        {**NEEDLE_CELL, "depths": [10, 50], "length": 500},
    ),
    "ruler": (
        "ruler.dataset.RulerDataset",
        {"task": "vt", "length": 600, "tokenizer": "asset:tiny-llada", "num_samples": 1},
    ),
    "longbench": ("longbench.dataset.LongBenchDataset", {"task": "lcc", "path": "asset:longbench"}),
    "longbench_v2": ("longbench.v2.LongBenchV2Dataset", {"path": "asset:longbench/v2.jsonl"}),
    "perplexity": ("perplexity.samples.PerplexityDataset", {"path": "generated"}),
}


REPORT = ("report", "FOLDER/run", "-o", "FOLDER/report")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One bad input."""

    name: str
    """What is wrong, short; unique."""
    words: tuple[str, ...]
    """What the refusal must hold: the value or file, and what to do."""
    change: str = ""
    """Python after the config's models and datasets; ``model`` and ``dataset`` are their first."""
    cell: str = "needle"
    """A key of `CELLS`."""
    damage: Callable[[Path], None] | None = None
    """Changes the case's own folder: ``checkpoint/`` is a tiny LLaDA, ``data/`` is empty."""
    arguments: tuple[str, ...] = ()
    """Command line after the config; FOLDER stands for the case's own folder."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment."""
    config: str | None = None
    """A config file instead of the case's own; FOLDER as above."""
    command: tuple[str, ...] = ()
    """A command of ``opencompass-llada`` instead of a run."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a user sees of it."""

    status: int
    text: str


def run_case(case: Case, folder: Path, checkpoint: Path) -> Outcome:
    """Run a case in this process.

    Args:
        case: What to run.
        folder: An empty folder of its own.
        checkpoint: A tiny LLaDA's folder, not changed.
    """
    (folder / "data").mkdir(parents=True)
    if case.damage is not None:
        shutil.copytree(checkpoint, folder / "checkpoint")
        checkpoint = folder / "checkpoint"
        case.damage(folder)
    kind, cell = CELLS[case.cell]
    config = folder / "config.py"
    text = CONFIG.format(kind=kind, checkpoint=str(checkpoint), cell=dict(cell), change=case.change)
    config.write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    given = str(config) if case.config is None else case.config
    words = [given, "--dry-run", "-w", str(folder / "out"), *case.arguments]
    words = [word.replace("FOLDER", str(folder)) for word in words if word]
    command = [word.replace("FOLDER", str(folder)) for word in case.command]
    with _surroundings(folder, case.variables), _argv(words):
        return _run(lambda: cli.main(command) if command else launch_module.launch())


def _run(main: Callable[[], int]) -> Outcome:
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            status = main()
        except SystemExit as end:
            if isinstance(end.code, str):
                errors.write(end.code + "\n")
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(status=status, text=errors.getvalue() + output.getvalue())


@contextlib.contextmanager
def _surroundings(folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    values = {name: value.replace("FOLDER", str(folder)) for name, value in variables.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("LLADA_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["run.py", *words]
    try:
        yield
    finally:
        sys.argv = before


def edit_json(file: str, **fields: Any) -> Callable[[Path], None]:
    """Return a damage that sets fields of a JSON file of the checkpoint; None removes one."""

    def damage(folder: Path) -> None:
        path = folder / "checkpoint" / file
        found = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return damage


def write(file: str, content: str | bytes) -> Callable[[Path], None]:
    """Return a damage that writes a file of the case's folder."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def _write_files(files: Mapping[str, str | bytes]) -> Callable[[Path], None]:
    """Return a damage that writes several files."""

    def damage(folder: Path) -> None:
        for file, content in files.items():
            write(file, content)(folder)

    return damage


def edit_result(**fields: Any) -> Callable[[Path], None]:
    """Return a damage that makes ``run/``, a run of two cells, and sets fields of a result."""

    def damage(folder: Path) -> None:
        run = work_dirs.write_run(folder / "run", [work_dirs.make_model("m")], [work_dirs.niah_cell(length, 0) for length in (2000, 4000)])  # fmt: skip
        path = run / "results/m/niah_length2000_depth000.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}).replace('"HUGE"', "9" * 400))  # fmt: skip

    return damage


def remove(file: str) -> Callable[[Path], None]:
    """Return a damage that removes a file."""
    return lambda folder: (folder / file).unlink()


def link(file: str, target: str) -> Callable[[Path], None]:
    """Return a damage that puts a link in a file's place."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return damage


def make_folder(file: str) -> Callable[[Path], None]:
    """Return a damage that puts a folder in a file's place."""

    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir(parents=True)

    return damage


# fmt: off
def _keywords() -> Iterator[Case]:
    """Keywords of the wrapper."""
    wrong: dict[str, tuple[tuple[str, str], ...]] = {
        "max_out_len": (("'16'", "quotes"), ("True", "integer"), ("0", "positive"), ("1.5", "integer")),
        "batch_size": (("'4'", "quotes"), ("False", "integer"), ("-1", "positive"), ("[4]", "integer")),
        "max_seq_len": (("'2048'", "quotes"), ("True", "integer"), ("0", "positive"), ("2048.5", "integer"), ("10**30", "at most")),
        "seed": (("1.5", "integer"), ("-1", "at least 0"), ("'one'", "integer"), ("True", "integer"), ("10**30", "at most"), ("float('nan')", "integer"), ("10**5000", "at most")),
        "drop_middle": (("'yes'", "boolean"), ("1", "boolean"), ("None", "boolean")),
        "truncation": (("'midle'", "max_seq_len"), ("5", "text"), ("['middle']", "text"), ("'middle'", "max_seq_len")),
        "model_type": (("'lada'", "llada"), ("7", "text"), ("['llada']", "text"), ("'dream'", "model_type")),
        "dtype": (("'bfloat61'", "bfloat16"), ("16", "dtype"), ("['float32']", "dtype"), ("True", "dtype"), ("'int8'", "dtype")),
        "device": (("'cuad'", "cuda"), ("'cuda:x'", "cuda"), ("3.5", "device"), ("'mps:9'", "device")),
        "attention_backend": (("'sdpa_flsh'", "sdpa_flash"), ("1", "text"), ("['auto']", "text")),
        "stop_words": (("5", "stop_words"), ("['']", "non-empty"), ("[5]", "stop_words"), ("{'a': 1}", "stop_words")),
        "chat": (
            ("'yes'", "True"), ("1", "True"), ("dict(templat='x')", "template"), ("dict(template=3)", "text"),
            ("dict(template='FOLDER/none.jinja')", "no file"), ("dict(system=4)", "text"), ("dict(variables=[1])", "dict"), ("True", "no chat template"),
            ("dict(template='FOLDER')", "no file"),
        ),
        "likelihood": (
            ("5", "dict"), ("dict(num_draws='128')", "integer"), ("dict(num_draws=3)", "even"), ("dict(draws=4)", "num_draws"), ("dict(seed=-1)", "at least 0"),
            ("dict(batch_size=0)", "at least 1"), ("dict(seed=1.5)", "integer"),
        ),
        "tokenizer_path": (("'./nowhere'", "nowhere"), ("5", "text"), ("'FOLDER/data'", "tokenizer")),
        "tokenizer_kwargs": (("5", "dict"), ("['use_fast']", "dict")),
        "model_kwargs": (
            ("5", "dict"), ("dict(torch_dtyp='float16')", "torch_dtype"), ("dict(flash_attention='yes')", "boolean"), ("dict(device_map='cuad')", "device"),
            ("dict(trust_remote_code='no')", "boolean"), ("dict(torch_dtype='float16', dtype='float16')", "keep one"),
        ),
        "peft_path": (("5", "text"), ("'FOLDER/none'", "none"), ("''", "peft_path"), ("'FOLDER/data'", "adapter_config.json")),
        "peft_kwargs": (("dict(revision='a')", "peft_path"), ("[1]", "dict"), ("dict(revison='a')", "revision")),
        "path": (
            ("None", "path"), ("5", "path"), ("''", "path"), ("'./nowhere'", "nowhere"), ("['a']", "path"), ("'asset:tiny-lada'", "tiny-llada"),
            ("'FOLDER/data'", "config.json"), ("'FOLDER/config.py'", "config.py"),
        ),
        "meta_template": (("5", "dict"), ("'a'", "dict")), "tokenizer_only": (("'no'", "boolean"), ("2", "boolean")), "sync_rank": (("'no'", "boolean"),),
        "generation_kwargs": (("dict(temperature=1)", "sampler"), ("5", "dict")), "pad_token_id": (("'a'", "integer"), ("1.5", "integer")),
        "run_cfg": (
            ("dict(num_gpus='1')", "integer"), ("dict(num_gpus=-1)", "num_gpus"), ("dict(num_gpus=1.5)", "integer"), ("dict(num_gpus=True)", "integer"),
            ("5", "dict"), ("dict(num_gpus=0, num_procs='2')", "integer"), ("dict(num_gpus=0, num_procs=0)", "num_procs"), ("dict(num_gpus=999)", "999"),
            ("dict(num_gpu=1)", "num_gpus"),
        ),
    }
    for name, values in wrong.items():
        for value, word in values:
            yield Case(name=f"{name}={value}", change=f"model[{name!r}] = {value}", words=("'tiny'", word))
    yield Case(name="an unknown keyword", change="model['max_sequence_len'] = 5", words=("max_seq_len",))
    yield Case(name="a keyword that is no text", change="model.update({5: 6})", words=("models[0]", "dict"))


def _sampler() -> Iterator[Case]:
    """Options of the sampler, and of the papers' form."""
    wrong = {
        "num_steps": (("'8'", "integer"), ("True", "integer"), ("0", "positive"), ("7.5", "integer"), ("7", "multiple"), ("10**30", "at most")),
        "block_length": (("'8'", "integer"), ("0", "at least 1"), ("8.0", "integer"), ("[8]", "integer")),
        "sub_block_length": (("'8'", "integer"), ("0", "at least 1")),
        "generation_length": (("'8'", "integer"), ("-8", "at least 1"), ("10**30", "at most")),
        "temperature": (("'0.5'", "number"), ("-1", "at least 0"), ("True", "number"), ("float('nan')", "finite"), ("float('inf')", "finite"), ("10**400", "at most")),
        "top_p": (("'0.9'", "number"), ("1.5", "below 1"), ("0", "above 0"), ("True", "number")),
        "top_k": (("'5'", "integer"), ("0", "at least 1"), ("2.5", "integer")), "cfg_scale": (("'1'", "number"), ("-0.5", "at least 0"), ("None", "number")),
        "remasking": (("'low_confidenc'", "low_confidence"), ("5", "text"), ("['random']", "text")),
        "remasking_temperature": (("'1'", "number"), ("-1", "at least 0")), "schedule": (("'evn'", "even"), ("5", "text")),
        "timestep_eps": (("'a'", "number"), ("2", "below 1")), "seed": (("1.5", "integer"), ("'0'", "quotes"), ("-1", "at least 0")),
        "suppress_eos_logits": (("'no'", "boolean"), ("0", "boolean")), "early_stop": (("1", "boolean"), ("'true'", "boolean")),
        "variable_length": (("1", "boolean"), ("'true'", "boolean")),
        "acceptance": (
            ("'threshhold'", "threshold"), ("5", "acceptance"), ("dict(type='threshold', value='0.9')", "number"), ("dict(type='threshold', value=9)", "0.9"),
            ("dict(typ='threshold')", "type"), ("dict(type=['threshold'])", "text"), ("[]", "acceptance"),
        ),
        "cache": (
            ("'promt'", "prompt"), ("5", "cache"), ("dict(type='prompt', refresh=0)", "refresh"), ("dict(type='prompt', refresh=True)", "refresh"),
            ("dict(type='prompt', refresh=1.5)", "refresh"), ("dict(type='prompt', dtype='float9')", "float8"), ("dict(refresh=3)", "no effect"),
        ),
    }
    for name, values in wrong.items():
        for value, word in values:
            change = f"model['sampler'] = dict(block_length=8, num_steps=8) | dict({name}={value})"
            yield Case(name=f"sampler {name}={value}", change=change, words=(name.split("_")[0], word))
    for value in ("5", "'fsat'", "[('num_steps', 8)]"):
        yield Case(name=f"sampler={value}", change=f"model['sampler'] = {value}", words=("sampler", "dict"))
    presets = (("dict(preset='quick')", "fast"), ("dict(preset=5)", "text"), ("dict(preset='fast', cache='dual')", "cache"), ("dict(prest='fast')", "preset"))
    for value, word in presets:
        yield Case(name=f"sampler={value}", change=f"model['sampler'] = {value}", words=("preset", word))
    yield Case(name="sampler none known", change="model['sampler'] = dict(stepz=3)", words=("stepz",))
    seeds = (
        ("dict(steps='8')", "integer"), ("dict(mask_id='a')", "integer"), ("dict(mask_id=5)", "mask"),
        ("dict(stps=8)", "steps"), ("5", "dict"), ("dict(temperature=True)", "number"),
        ("dict(logits_eos_inf=1)", "boolean"), ("dict(gen_length=0)", "at least 1"),
    )
    for value, word in seeds:
        change = f"del model['sampler']; model['diffusion_config'] = {value}"
        yield Case(name=f"diffusion_config={value}", change=change, words=(word,))
    both = "model['diffusion_config'] = dict(steps=8)"
    yield Case(name="both forms", change=both, words=("diffusion_config and sampler", "keep one"))


def _scaling() -> Iterator[Case]:
    """Options of RoPE scaling."""
    wrong = (
        ("5", "dict"), ("'ntk'", "dict"), ("dict()", "type"), ("dict(type='nkt', target_length=512)", "ntk"),
        ("dict(type=5)", "text"), ("dict(type=['ntk'], target_length=512)", "text"),
        ("dict(type='ntk', target_length='512')", "quotes"), ("dict(type='ntk', target_length=True)", "integer"),
        ("dict(type='ntk', target_length=512.5)", "integer"), ("dict(type='ntk', target_length=-1)", "above 0"),
        ("dict(type='ntk', target_length=8)", "below"), ("dict(type='ntk')", "exactly one"), ("dict(type='ntk', theta_multiplier=float('nan'))", "finite"),
        ("dict(type='ntk', theta_multiplier=float('inf'))", "finite"), ("dict(type='ntk', theta_multiplier=0.5)", "at least 1"),
        ("dict(type='ntk', theta_multiplier='4')", "quotes"), ("dict(type='ntk', theta_multiplier=10**400)", "at most"),
        ("dict(type='ntk', theta_multiplier=2, critical_dimension=999)", "999"), ("dict(type='ntk', theta_multiplier=2, critical_dimension=2.5)", "integer"),
        ("dict(type='linear', factor=True)", "number"), ("dict(type='linear', factor=0)", "above 0"), ("dict(type='yarn', factor=2, beta_fast='a')", "number"),
        ("dict(type='longrope', target_length=512)", "long_factor"),
        ("dict(type='longrope', target_length=512, long_factor='abc', short_factor=[1]*8)", "list"),
        ("dict(type='longrope', target_length=512, long_factor=['a']*8, short_factor=[1]*8)", "number"),
        ("dict(type='longrope', target_length=512, long_factor=[1]*3, short_factor=[1]*8)", "3"),
        ("dict(type='longrope', target_length=512, long_factor=[-1]*8, short_factor=[1]*8)", "above 0"),
        ("dict(type='ntk', target_lenght=512)", "target_length"), ("dict(type='linear', factor=2, trained_length='64')", "quotes"),
    )
    for value, word in wrong:
        yield Case(name=f"rope_scaling={value}", change=f"model['rope_scaling'] = {value}", words=("'tiny'", word))
    for value, word in (
        ("5", "dict"), ("dict(scaling_factor='4')", "quotes"), ("dict(scaling_factor=-1)", "positive"), ("dict(factor=2)", "scaling_factor"),
        ("dict(scaling_factor=float('nan'))", "finite"), ("dict(scaling_factor=0.5)", "1"),
    ):
        yield Case(name=f"scaling_config={value}", change=f"model['scaling_config'] = {value}", words=("scaling", word))


def _checkpoints() -> Iterator[Case]:
    """Files of a checkpoint."""
    fields = {
        "n_layers": (10**9, "2", "n_heads", True, -1, 1.5, 0), "d_model": ("32", 33, [32]), "n_heads": (0, "2", 3), "n_kv_heads": ("2", 0),
        "vocab_size": ("260", -1), "mlp_hidden_size": ("48", 0), "rope_theta": ("10000", -1, True), "max_sequence_length": ("64", 0, 1.5),
        "mask_token_id": ("258", 10**6, -1, True), "eos_token_id": ("256", 10**6), "rms_norm_eps": ("a", -1), "model_type": ("lada", 5, ["llada"]),
    }
    for name, values in fields.items():
        for value in values:
            damage = edit_json("config.json", **{name: value})
            yield Case(name=f"config.json {name}={value!r}", damage=damage, words=(name,))
    for content, word in (("", "JSON"), ("[]", "object"), ("null", "object"), ("{", "JSON"), (b"\xff\xfe{}", "config.json"), ("[" * 100000, "config.json")):
        yield Case(name=f"config.json is {content[:9]!r}", damage=write("checkpoint/config.json", content), words=("config.json", word))
    whole = "checkpoint/model.safetensors"
    index = "checkpoint/model.safetensors.index.json"
    yield Case(name="config.json a broken link", damage=link("checkpoint/config.json", "gone"), words=("config.json",))
    yield Case(name="config.json a folder", damage=make_folder("checkpoint/config.json"), words=("config.json",))
    yield Case(name="weights a broken link", damage=link(whole, "gone"), words=("safetensors",))
    yield Case(name="weights a folder", damage=make_folder(whole), words=("safetensors",))
    yield Case(name="weights empty", damage=write(whole, ""), words=("model.safetensors",))
    yield Case(name="weights of a pointer", damage=write(whole, "version https://git-lfs.github.com/spec/v1\n"), words=("model.safetensors",))
    yield Case(name="no weights", damage=remove(whole), words=("safetensors",))
    for content in ("{}", "[]", "", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "gone.safetensors"}}'):
        yield Case(name=f"index {content}", damage=write(index, content), words=("index.json",))
    for content in ("{}", "", "[]", "null"):
        yield Case(name=f"tokenizer.json is {content!r}", damage=write("checkpoint/tokenizer.json", content), words=("okenizer",))
    for content in ("", "[]", "{"):
        yield Case(name=f"tokenizer_config.json is {content!r}", damage=write("checkpoint/tokenizer_config.json", content), words=("okenizer",))
    yield Case(name="no tokenizer", damage=remove("checkpoint/tokenizer.json"), words=("okenizer",))


def _data_sets() -> Iterator[Case]:
    """Keywords of data sets, found before weights load."""
    wrong = {
        "needle": {
            "length": ("'400'", "True", "0", "400.5", "10**30", "50", "10**9"), "depth": ("'50'", "101", "-1", "float('nan')", "True"),
            "file_list": ("[]", "5", "'haystack.jsonl'", "[5]", "['gone.jsonl']"), "num_repeats_per_file": ("'1'", "0", "1.5", "True"),
            "length_buffer": ("'fitt'", "-1", "1.5", "True"), "guide": ("'no'", "1"), "language": ("'Englsh'", "5", "['English']"), "position": ("'Ende'", "5"),
            "tokenizer": ("'model'", "5", "'./nowhere'"), "path": ("5", "'./nowhere'", "'asset:needlebnch'"), "needle_file_name": ("5", "'gone.jsonl'"),
            "generation_reserve": ("'5'", "-1"), "lenght": ("400",),
        },
        "multi": {"depths": ("[]", "5", "['a']", "[50, 10]", "[101]"), "depthz": ("1",)},
        "ruler": {
            "task": ("'vtt'", "5", "['vt']"), "length": ("'600'", "0", "True", "3"),
            "num_samples": ("'1'", "0", "1.5"), "seed": ("1.5", "'a'", "-1"), "tokens_to_generate": ("-1", "'5'"), "tokenizer": ("5",), "taks": ("'vt'",),
        },
        "longbench": {"task": ("'lc'", "5"), "benchmark": ("'longbnch'", "5"), "path": ("5", "'./nowhere'"), "wording": ("'orignal'", "5"), "tsk": ("'lcc'",)},
        "longbench_v2": {"path": ("5", "'./nowhere'", "'FOLDER'"), "pth": ("'x'",)},
        "perplexity": {"path": ("5", "'./nowhere.txt'"), "num_texts": ("'1'", "0", "True"), "min_characters": ("'1'", "0"), "text_field": ("5",), "pth": ("'x'",)},
    }
    # Where a file or folder is missing the message names it and not the keyword.
    found = {"['gone.jsonl']": "gone.jsonl", "'./nowhere'": "nowhere", "'FOLDER'": "data.json"}
    found |= {"'asset:needlebnch'": "asset:needlebench", "'./nowhere.txt'": "nowhere.txt"}
    for cell, options in wrong.items():
        for name, values in options.items():
            for value in values:
                yield Case(name=f"{cell} {name}={value}", cell=cell, change=f"dataset[{name!r}] = {value}", words=(found.get(value, name.split("_")[0]),))
    yield Case(name="needle without a length", change="del dataset['length']", words=("length",))
    yield Case(name="a stock data set's unknown keyword", change="dataset.update(type='opencompass.datasets.JsonlDataset', path='x')", words=("length",))
    for value in ("5", "''", "'opencompass_llada.benchmarks.needle.dataset.Nothing'", "'nowhere.Nothing'"):
        yield Case(name=f"data set type={value}", change=f"dataset['type'] = {value}", words=("type",))
    for value in ("'16'", "0", "1.5", "True"):
        yield Case(name=f"max_out_len={value} of a data set", change=f"dataset['infer_cfg']['inferencer']['max_out_len'] = {value}", words=("max_out_len",))
    for change, word in (
        ("del dataset['reader_cfg']", "input_columns"), ("dataset['reader_cfg'] = {}", "input_columns"), ("del dataset['reader_cfg']['output_column']", "output_column"),
        ("dataset['reader_cfg']['input_columns'] = 5", "input_columns"), ("dataset['reader_cfg']['output_column'] = ['a']", "output_column"),
        ("dataset['reader_cfg']['output_colum'] = 'a'", "output_column"), ("dataset['reader_cfg'] = 5", "reader_cfg"),
        ("del dataset['infer_cfg']", "inferencer"), ("del dataset['infer_cfg']['inferencer']", "inferencer"), ("del dataset['infer_cfg']['retriever']", "retriever"),
        ("dataset['infer_cfg']['retriever'] = 5", "retriever"), ("del dataset['infer_cfg']['prompt_template']", "prompt_template"),
        ("del dataset['eval_cfg']", "evaluator"), ("dataset['eval_cfg'] = dict(evaluator={})", "evaluator"),
    ):
        yield Case(name=change, change=change, words=("'data'", word))
    yield Case(name="infer_cfg=5", change="dataset['infer_cfg'] = 5", words=("infer_cfg",))
    yield Case(name="data set abbr=5", change="dataset['abbr'] = 5", words=("abbr",))
    inferencer = "dataset['infer_cfg']['inferencer'] = dict(type='opencompass_llada.benchmarks.perplexity.inferencer.PerplexityInferencer', {})"
    for value, word in (
        ("", "window"), ("window=5", "window"), ("window=dict(length='8', target='whole')", "length"),
        ("window=dict(length=8, target='whole'), likelihood=dict(num_draws='4')", "num_draws"), ("window=dict(length=8, target='whole'), windw=1", "windw"),
    ):
        yield Case(name=f"perplexity {value}", cell="perplexity", change=inferencer.format(value), words=(word,))
    options = "dataset['infer_cfg']['inferencer'] = dict(type='opencompass_llada.benchmarks.short.inferencer.OptionScoringInferencer', {})"
    for value in ("per='tokn'", "likelihood=dict(num_draws='4')", "labls=['A']", "per=5"):
        yield Case(name=f"options {value}", change=options.format(value), words=(value.split("=")[0][:4],))


def _data_files() -> Iterator[Case]:
    """Files of data, found before weights load."""
    needle = '{"needle": "The key is 5.", "retrieval_question": "Which?", "arg2": "5", "language": "English"}\n'
    document = '{"title": "a", "text": "%s"}\n' % ("many words of text " * 400)
    row = json.dumps({"context": "a", "input": "b", "answers": ["c"], "length": 3, "all_classes": None}) + "\n"
    v2 = {"question": "q", **dict.fromkeys(("choice_A", "choice_B", "choice_C", "choice_D"), "c"), "answer": "A", "context": "t", "difficulty": "easy", "length": "short"}

    def needles(needle: str | bytes, document: str | bytes) -> Callable[[Path], None]:
        return _write_files({"data/needles.jsonl": needle, "data/synthetic_en.jsonl": document})

    def case(name: str, cell: str, damage: Callable[[Path], None], *words: str, path: str = "FOLDER/data") -> Case:
        return Case(name=name, cell=cell, damage=damage, words=words, change=f"dataset['path'] = {path!r}")

    broken = {
        "torn": document[:-30], "null text": '{"text": null}\n', "no text": '{"txt": "a"}\n',
        "a number": '{"text": 5}\n', "a list": "[1]\n", "a bare null": "null\n",
        "half a surrogate": '{"text": "a \\ud800 b"}\n' + document, "Latin-1": document.encode() + b'{"text": "caf\xe9"}\n',
        "UTF-16": document.encode("utf-16"), "nothing": "", "NUL": "\0" * 50,
    }
    for name, content in broken.items():
        yield case(f"haystack: {name}", "needle", needles(needle, content), "synthetic_en.jsonl")
    for name, content in broken.items():
        wrong = content if isinstance(content, bytes) else content.replace(document, needle).replace('"text"', '"needle"')
        yield case(f"needles: {name}", "needle", needles(wrong, document), "needles.jsonl")
    for name, content in {"null": needle.replace('"5"', "null"), "a number": needle.replace('"5"', "5"), "half a surrogate": needle.replace("Which?", "\\udc00")}.items():
        yield case(f"needles: a field that is {name}", "needle", needles(content, document), "needles.jsonl")
    yield case("multi needles: null", "multi", needles(needle.replace('"5"', "null") * 3, document), "needles.jsonl")
    rows = {
        "torn": row[:-9], "null context": row.replace('"a"', "null"), "null input": row.replace('"b"', "null"), "a number as context": row.replace('"a"', "5"),
        "null answers": row.replace('["c"]', "null"), "half a surrogate": row.replace('"a"', '"\\ud800"'),
        "a half surrogate in an answer": row.replace('"c"', '"\\ud800"'), "Latin-1": row.encode() + b'{"context": "\xe9"}\n',
        "boolean length": row.replace("3", "true"), "classes of numbers": row.replace("null", "[5]"), "nothing": "", "a list": "[]\n",
    }
    for name, content in rows.items():
        yield case(f"LongBench: {name}", "longbench", write("data/data/lcc.jsonl", content), "lcc.jsonl")
    yield case("LongBench: data.zip is no zip", "longbench", write("data/data.zip", "no zip"), "data.zip")
    shapes = {
        "a dict": {"data": [v2]}, "a number": 5, "null": None, "a list of numbers": [5], "a text": "a", "no rows": [], "null field": [{**v2, "context": None}],
        "answer E": [{**v2, "answer": "E"}], "a list as answer": [{**v2, "answer": ["A"]}], "half a surrogate": [{**v2, "context": "\ud800"}],
    }
    for name, shape in shapes.items():
        yield case(f"LongBench v2: {name}", "longbench_v2", write("data/data.json", json.dumps(shape)), "data.json")
    yield case("LongBench v2: Latin-1", "longbench_v2", write("data/data.json", b'[{"context": "\xe9"}]'), "data.json")
    yield case("LongBench v2: torn", "longbench_v2", write("data/data.json", json.dumps([v2])[:-5]), "data.json")
    texts = {"null": '{"text": null}\n', "a number": '{"text": 5}\n', "torn": '{"text": "a', "half a surrogate": '{"text": "\\ud800"}\n', "a list": "[]\n"}
    for name, content in texts.items():
        yield case(f"texts: {name}", "perplexity", write("data/t.jsonl", content), "t.jsonl", path="FOLDER/data/t.jsonl")
    yield case("texts: Latin-1", "perplexity", write("data/t.txt", b"caf\xe9"), "t.txt", path="FOLDER/data/t.txt")
    yield case("texts: a broken link", "perplexity", link("data/t.txt", "gone"), "t.txt", path="FOLDER/data/t.txt")
    yield case("texts: an empty folder", "perplexity", make_folder("data/t"), "data/t", path="FOLDER/data/t")


def _config_files() -> Iterator[Case]:
    """The config as a whole, and the command line."""
    for name, change, word in (
        ("no models", "models = []", "models"), ("no data sets", "datasets = []", "datasets"),
        ("models a dict", "models = dict(a=1)", "models"), ("a model that is a text", "models = ['a']", "models"),
        ("models None", "models = None", "models"), ("datasets 5", "datasets = 5", "datasets"), ("a data set that is None", "datasets = [None]", "datasets"),
        ("no models at all", "del models", "models"), ("no data sets at all", "del datasets", "datasets"),
        ("a model without a type", "del model['type']", "type"), ("a model type 5", "model['type'] = 5", "type"),
        ("a model type of nothing", "model['type'] = 'opencompass_llada.wrapper.LLaDACausalLN'", "LLaDACausalLN"),
        ("two models of one name", "models = models * 2", "abbr"), ("combinations 5", "model_dataset_combinations = 5", "config.py"),
        ("combinations of texts", "model_dataset_combinations = ['a']", "config.py"),
        ("an empty combination", "model_dataset_combinations = [dict(models=[], datasets=[])]", "models"),
        ("a syntax error", "models = [", "config.py"), ("an error of its own", "1 / 0", "ZeroDivisionError"),
        ("an import of nothing", "from nothing_at_all import X\nmodel['type'] = X", "nothing_at_all"),
        ("a read_base of nothing", "from mmengine.config import read_base\nwith read_base():\n    from .nothing import x", "nothing"),
        ("itself", "from mmengine.config import read_base\nwith read_base():\n    from .config import models", "config"),
        ("a list that holds itself", "models.append(models)", "models"),
        ("an infer of 5", "infer = 5", "infer"), ("a runner of 5", "infer = dict(runner=5)", "runner"), ("work_dir 5", "work_dir = 5", "work_dir"),
        ("a SystemExit", "raise SystemExit", "config.py"),
    ):
        yield Case(name=f"config: {name}", change=change, words=(word,))
    secret = "model['tokenizer_kwargs'] = dict(token='abc')"
    yield Case(name="config: a secret", change=secret, words=("models[0].tokenizer_kwargs.token",))
    files = {"empty": "", "of words": "hello there", "of bytes": b"\xff\xfe\x00", "Latin-1": b"# caf\xe9\nmodels = []\n", "NUL": "\0"}
    for name, content in files.items():
        yield Case(name=f"config file: {name}", damage=write("given.py", content), config="FOLDER/given.py", words=("given.py",))
    yield Case(name="config file: a folder", config="FOLDER/data", words=("data",))
    yield Case(name="config file: a folder called .py", damage=make_folder("given.py"), config="FOLDER/given.py", words=("given.py",))
    yield Case(name="config file: a broken link", damage=link("given.py", "gone"), config="FOLDER/given.py", words=("given.py",))
    yield Case(name="config file: itself by a link", damage=link("given.py", "given.py"), config="FOLDER/given.py", words=("given.py",))
    yield Case(name="config file: gone", config="FOLDER/confg.py", words=("confg.py", "Did you mean"))
    yield Case(name="config file: another ending", damage=write("given.txt", "models = []"), config="FOLDER/given.txt", words=("given.txt",))
    yield Case(name="config file: none", config="", words=("config",))
    for words, word in (
        (("-m", "evl"), "eval"), (("-m", "eval"), "-r"), (("-m", "viz"), "-r"), (("--num-gpus", "1"), "num"),
        (("--slurm",), "partition"), (("--max-num-workers", "two"), "two"), (("--max-num-workers", "0"), "max-num-workers"),
        (("--max-num-workers", "-3"), "max-num-workers"), (("--no-such-option",), "--no-such-option"),
        (("-r", "20990101_000000"), "20990101_000000"), (("-r", "../elsewhere"), "elsewhere"),
        (("-w", "FOLDER/config.py"), "config.py"), (("-w", "/proc/nowhere"), "/proc/nowhere"),
        (("--dlc",), "aliyun"), (("second.py",), "second.py"), (("--max-workers-per-gpu", "0"), "max-workers-per-gpu"),
    ):
        yield Case(name=f"run.py {' '.join(words)}", arguments=words, words=(word,))


def _variables() -> Iterator[Case]:
    """Environment variables."""
    niah = "ROOT/configs/eval_llada_niah.py"
    shown = {"NAME=": "'NAME'", "=x": "Unknown model", "NAME=./nowhere": "'NAME'", "64": "LLADA_LENGTHS"}
    shown["ntk:target_length=-1"] = "target_length=-1"
    for name, values in {
        "MODELS": ("tiny_lada", ",", "NAME=", "=x", "a b", "NAME=./nowhere"),
        "SCALING": ("nkt", "ntk:", "ntk:target_length", "ntk:target_length=x", "ntk:target_length=-1", "ntk:factor=nan", "ntk:theta_multiplier=inf"),
        "LENGTHS": ("x", "-1", "0", "1e3", "99999999999999999999", "5", "²"),
        "DEPTHS": ("x", "101", "-5"), "REPEATS": ("0", "x", "1.5", "1,2"), "DATA": ("./nowhere",),
        "LANGUAGE": ("fr",), "TOKENIZER": ("./nowhere",), "PROMPT": ("chatt",), "GENERATION_LENGTH": ("0", "x"),
        "STEPS": ("0", "x"), "BATCH_SIZE": ("0", "x"), "WORKERS": ("0", "x"), "DEMO": ("yes",), "DTYPE": ("float61",), "SAMPLER": ("fsat",), "LENGHTS": ("64",),
    }.items():
        for value in values:
            yield Case(name=f"LLADA_{name}={value}", config=niah, variables={f"LLADA_{name}": value}, words=(shown.get(value, value if name != "STEPS" else "step"),))
    for value in ("NoDevFiles", "none", "all", "cuda:0", "0 1", "-1", "", "99", "GPU-nothing", "²"):
        yield Case(name=f"CUDA_VISIBLE_DEVICES={value}", change="model['run_cfg'] = dict(num_gpus=1)", variables={"CUDA_VISIBLE_DEVICES": value}, words=("CUDA_VISIBLE_DEVICES",))
    yield Case(name="COMPASS_DATA_CACHE a file", change="dataset['path'] = 'opencompass/needlebench'", variables={"COMPASS_DATA_CACHE": "FOLDER/config.py"}, words=("COMPASS_DATA_CACHE",))
    for variables in ({"OPENCOMPASS_LLADA_CACHE": "FOLDER/config.py"}, {"OPENCOMPASS_LLADA_CACHE": "FOLDER/config.py/a/b"}, {"OPENCOMPASS_LLADA_CACHE": "", "XDG_CACHE_HOME": "FOLDER/config.py"}):
        yield Case(name=f"a file as cache: {variables}", cell="ruler", variables=variables, words=("OPENCOMPASS_LLADA_CACHE", "config.py", "is a file"))
    yield Case(name="TIKTOKEN_CACHE_DIR a file", change="dataset['tokenizer'] = 'gpt-4'", variables={"TIKTOKEN_CACHE_DIR": "FOLDER/config.py"}, words=("TIKTOKEN_CACHE_DIR",))


def _commands() -> Iterator[Case]:
    """The commands of ``opencompass-llada``."""
    for command, word in (
        ((), "command"), (("repot",), "repot"), (("report",), "WORKDIR"), (("report", "FOLDER/none", "-o", "FOLDER/r"), "none"),
        (("report", "FOLDER/data", "-o", "FOLDER/r"), "data"), (("report", "FOLDER/config.py", "-o", "FOLDER/r"), "config.py"),
        (("watch", "FOLDER/none", "--once"), "none"), (("watch", "FOLDER/data", "--once"), "data"), (("watch", "FOLDER/data", "--every", "x"), "x"),
        (("watch", "FOLDER/data", "--every", "-1"), "-1"), (("watch", "FOLDER/data", "--every", "nan"), "nan"),
        (("doctor", "--data", "needlebnch"), "needlebench"), (("doctor", "--config", "FOLDER/none.py"), "none.py"),
        (("doctor", "--config", "FOLDER/data"), "data"), (("doctor", "-w", "FOLDER/config.py"), "config.py"),
        (("fidelity", "--config", "FOLDER/none.py", "--second", "num_steps=8"), "none.py"),
        (("fidelity", "--config", "FOLDER/data", "--second", "num_steps=8"), "data"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps"), "num_steps"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_stps=8"), "num_steps"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps='8'"), "integer"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps=8", "--limit", "0"), "limit"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps=8", "--limit", "-1"), "limit"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps=8", "--model", "tny"), "tiny"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps=8", "--datasets", "nothing*"), "nothing"),
        (("fidelity", "--config", "FOLDER/config.py", "--second", "num_steps=8", "--record", "FOLDER/data"), "data"),
        (("fidelity", "--config", "FOLDER/config.py"), "--second is missing"), (("fidelity", "--second", "num_steps=8"), "--config --runs"),
        (("fidelity", "--runs", "FOLDER/none", "FOLDER/data"), "a run's folder"),
        (("fidelity", "--runs", "FOLDER/data", "FOLDER/data", "--second", "num_steps=8"), "leave out --first, --second"),
    ):
        yield Case(name=f"opencompass-llada {' '.join(command)}", command=command or ("",), words=(word,))
    row = '{"needle": null, "retrieval_question": "Which?", "arg2": "5", "language": "English"}\n'
    for command in (("doctor",), ("fidelity", "--second", "num_steps=4")):
        command = (command[0], "--config", "FOLDER/config.py", *command[1:])
        for name, change, word in (
            ("a secret", "model['tokenizer_kwargs'] = dict(token='abc')", "tokenizer_kwargs.token"), ("no reader_cfg", "del dataset['reader_cfg']", "input_columns"),
            ("an unreadable data file", "dataset.update(path='FOLDER/data', needle_file_name='n.jsonl')", "n.jsonl, line 1"),
        ):
            damage = _write_files({"data/n.jsonl": row, "data/synthetic_en.jsonl": '{"title": "a", "text": "%s"}\n' % ("many words of text " * 400)})
            yield Case(name=f"{command[0]}, a config of {name}", damage=damage, change=change, command=command, words=(word,))
    yield Case(name="fidelity, a setting with a secret", command=("fidelity", "--config", "FOLDER/config.py", "--second", "tokenizer_kwargs={'token':'abc'}"), words=("token",))
    for name, file in (("empty", "empty.py"), ("without models", "bare.py")):
        content = "" if name == "empty" else "datasets = []\n"
        for command in ("doctor", "fidelity"):
            more = ("--second", "num_steps=8") if command == "fidelity" else ()
            yield Case(
                name=f"opencompass-llada {command}, a config that is {name}", damage=write(file, content),
                command=(command, "--config", f"FOLDER/{file}", *more), words=("empty.py" if command == "doctor" and name == "empty" else "models",),
            )


def _results() -> Iterator[Case]:
    """Numbers in a result that no evaluator gives, and damaged figures of the package."""
    for value in (900, -1, "HUGE", float("inf"), 100.5):
        yield Case(name=f"a result of accuracy {value}", damage=edit_result(accuracy=value), command=REPORT, words=("niah_length2000_depth000.json", "accuracy=", "0 to 100"))


# fmt: on
GROUPS = (
    "_keywords",
    "_sampler",
    "_scaling",
    "_checkpoints",
    "_data_sets",
    "_data_files",
    "_config_files",
    "_variables",
    "_commands",
    "_results",
)
CASES: tuple[Case, ...] = tuple(case for name in GROUPS for case in globals()[name]())
