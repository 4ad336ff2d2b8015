"""What a user can get wrong in a training: each ends in one clear paragraph, before weights load.

A table of inputs in one process: nothing trains, and no traceback, no bug report and no silent
acceptance is left.
"""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch
from finetune_runs import LONGER, RECIPE, SHORT, small_recipe
from safetensors.torch import load_file, save_file
from tiny import write_tiny_checkpoint

from opencompass_llada.finetune import trainer
from opencompass_llada.finetune.__main__ import main
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.resources import NetworkShape, check_fits
from opencompass_llada.networks import LLaDAConfig

PHASE, HUGE = SHORT[0], 1_000_000_000
NUMBER = ["text", "1", True, None, [], {}, float("nan")]

#: Key of the recipe -> wrong values and what the error says.
VALUES = {
    "seed": ([1.5, -1, 2**63, *NUMBER], "seed=.*must be a whole number from 0 to 2"),
    "learning_rate": ([-1, 0, float("inf"), 10**400, *NUMBER], "learning_rate=.*number above 0"),
    "warmup_steps": ([-1, 0.5, "1e3"], "warmup_steps=.*must be a whole number from 0"),
    "weight_decay": ([-0.1, True, "0.1"], "weight_decay=.*must be a number from 0"),
    "clip_norm": ([0, "1.0", False], "clip_norm=.*must be a number above 0"),
    "betas": (
        [0.9, [0.9], [0.9, 1.0], ["0.9", 0.95], [0.9, 0.95, 0.99], None],
        "betas.*must be two",
    ),
    "ema_decay": ([0, 1, "0.9", True], "ema_decay=.*must be a number above 0 and below 1, or null"),
    "min_mask_ratio": ([0, 1.0, "0.1", None], "min_mask_ratio=.*above 0 and below 1"),
    "time_limit": ([0, "1h", True], "time_limit=.*must be a number above 0, or null"),
    "memory_limit": ([-80, "80GB"], "memory_limit=.*must be a number above 0, or null"),
    "host_memory_limit": ([0, "1TB"], "host_memory_limit=.*must be a number above 0, or null"),
    "vocab_size": ([0, 400.0, "400", True, HUGE], "vocab_size=.*whole number from 1 to 1,000,000"),
    "num_workers": ([-1, 1.5, "2", HUGE], "num_workers=.*must be a whole number from 0 to 1024"),
    "tokenizing_processes": ([0, 1.5, "2", HUGE], "tokenizing_processes=.*whole number from 1 to"),
    "log_every": ([0, True, "10"], "log_every=.*must be a whole number from 1"),
    "probe_every": ([0, 2.5, None], "probe_every=.*must be a whole number from 1"),
    "keep_last": ([0, "all"], "keep_last=.*must be a whole number from 1"),
    "micro_rows": ([0, 1.0, True], "micro_rows=.*must be a whole number from 1 .*or null"),
    "loss_chunk": ([0, None], "loss_chunk=.*must be a whole number from 1"),
    "mlp_tile": ([-1, "4096"], "mlp_tile=.*must be a whole number from 1"),
    "sequence_parallel": ([0, 1.5], "sequence_parallel=.*must be a whole number from 1"),
    "max_document_tokens": ([0, "all"], "max_document_tokens=.*must be a whole number from 1"),
    "retrieval_share": (
        [-0.1, 1.1, "half", True],
        "retrieval_share=.*must be a number from 0 to 1",
    ),
    "continuation_share": ([2, None], "continuation_share=.*must be a number from 0 to 1"),
    "retrieval_styles": (
        [3, ["copy"], {"copy": "1"}, {"copy": True}, {"copy": -1}, {"copy": None}, {}, {"copi": 1}],
        "retrieval_styles",
    ),
    "compile": (["yes", 1, None], "compile=.*must be true or false"),
    "resume": (["false", 0], "resume=.*must be true or false"),
    "objective": (["ar", 1, None, True], "objective.*masked_diffusion"),
    "strategy": (["packed", None, ["eod"]], "strategy.*adaptive"),
    "dtype": (["int8", None, 16], "dtype.*bfloat16"),
    "loss_weight": ([None, "1/t"], "loss_weight.*inverse_t"),
    "output_dir": (["", None, 3, ["a"], "a\0b", "a" * 300], "output_dir="),
    "cache_dir": (["", 3, True], "cache_dir=.*must be text"),
    "init_from": ([3, True, [], ""], "init_from=.*must be text"),
    "rope_scaling": ([3, "ntk", {"type": "ntk"}, {"type": 3}, {"factor": 2}], "rope_scaling"),
    "lora": (
        [
            3,
            True,
            {"rank": 1.5},
            {"rank": "8"},
            {"alpha": 0},
            {"target_modules": []},
            {"target_modules": [1]},
        ],
        "lora",
    ),
    "model": (
        [
            3,
            None,
            [],
            {"d_model": "32"},
            {"d_model": 0},
            {"n_layers": 1.5},
            {"n_heads": True},
            {"d_model": None},
            {"rope_theta": "1e4"},
            {"rope_theta": float("nan")},
            {"d_model": 30, "n_heads": 4},
            {"d_model": 6, "n_heads": 2},
            {"n_kv_heads": 3},
            {"init_std": -1},
        ],
        "model",
    ),
    "text": (
        [
            None,
            [],
            {},
            "a.txt",
            [None],
            ["a.txt"],
            [{}],
            [{"paths": "a.txt"}],
            [{"paths": [3]}],
            [{"paths": None}],
            [{"paths": []}],
            [{"generated_seed": "7", "num_documents": 2}],
            [{"generated_seed": 7}],
            [{"generated_seed": -7, "num_documents": 2}],
            [{"generated_seed": 7, "num_documents": HUGE}],
            [{"dataset": 3}],
            [{"dataset": ""}],
            [{"paths": ["a.txt"], "weight": "1"}],
            [{"paths": ["a.txt"], "weight": 0}],
            [{"paths": ["a.txt"], "text_field": None}],
            [{"paths": ["a.txt"], "split": 1}],
            [{"path": ["a.txt"]}],
        ],
        "text",
    ),
    "phases": (
        [
            None,
            [],
            3,
            [3],
            [{}],
            [{**PHASE, "num_steps": True}],
            [{**PHASE, "num_steps": "4"}],
            [{**PHASE, "sequence_length": 128.0}],
            [{**PHASE, "rows_per_step": 0}],
            [{**PHASE, "rows_per_step": HUGE}],
            [{**PHASE, "continuation_share": "1"}],
            [{**PHASE, "steps": 4}],
        ],
        "phases|sequence_length|rows_per_step",
    ),
    "cycles": ([0, 1.5, "2", True, HUGE], "cycles=.*must be a whole number from 1 to 10,000"),
    "last_phases": ([3, [3], "x"], "last_phases"),
    "evaluation": (
        [
            3,
            "none",
            {"lengths": 64},
            {"lengths": ["64"]},
            {"lengths": [0]},
            {"draws": 5},
            {"draws": True},
            {"num_texts": 0},
            {"num_texts": HUGE},
            {"target_tokens": "64"},
            {"retrieval_rows": -1},
            {"retrieval_lengths": [64]},
            {"retrieval_lengths": None},
            {"text": {"generated_seed": 9, "num_documents": 2}},
            {"text": 3, "lengths": [64]},
            {"retrieval_lengths": [HUGE]},
        ],
        "evaluation",
    ),
    "sead": ([1], "Did you mean 'seed'"),
}
#: What is found only together with the text and the machine.
TOGETHER = [
    ({"phases": [{**PHASE, "sequence_length": HUGE}]}, "The step needs .* more than the"),
    ({"phases": [{**PHASE, "sequence_length": 10**30}]}, "The step needs .* more than the"),
    ({"model": {**RECIPE["model"], "n_layers": HUGE}}, "The step needs .* more than the"),
    ({"model": {**RECIPE["model"], "mlp_hidden_size": 10**12}}, "The step needs .* more than"),
    (
        {"evaluation": {"text": {"generated_seed": 9, "num_documents": 1}, "lengths": [100_000]}},
        "lengths ask for 100000 tokens and the held-out text has",
    ),
    ({"max_document_tokens": 3}, "more than max_document_tokens=3"),
    ({"micro_rows": 3}, "multiple of 1 data-parallel parts x micro_rows=3"),
    ({"sequence_parallel": 2}, "sequence_parallel=2 must divide the 1 processes"),
]


def files(folder):
    """Yield wrong text files: name, content (None for no file) and what the error says."""
    yield "none.txt", None, "no file matches"
    yield "empty.txt", b"", "holds no document with text"
    yield "empty.jsonl", b"", "holds no document with text"
    yield "blank.jsonl", b"\n\n \n", "holds no document with text"
    yield "latin.txt", "na\xefve".encode("latin-1"), "latin.txt is not UTF-8 .byte 0xef at 2"
    yield "latin.jsonl", b'{"text": "na\xefve"}\n', "latin.jsonl is not UTF-8"
    yield "binary.txt", bytes(range(256)), "binary.txt is not UTF-8"
    yield "utf16.txt", "text".encode("utf-16"), "utf16.txt is not UTF-8"
    yield "utf16le.txt", "text".encode("utf-16-le"), "utf16le.txt holds NUL"
    yield "nul.jsonl", b'{"text": "a\\u0000b"}', "line 1 of .*holds NUL"
    yield "half.jsonl", b'{"text": "a"}\n{"text": "b \\ud83d"}', "line 2 of .*half a surrogate"
    yield "null.jsonl", b'{"text": null}', "field 'text' of line 1 of .*is no text but 'None'"
    yield "number.jsonl", b'{"text": 3}', "is no text but '3'"
    yield "list.jsonl", b"[1, 2]", "line 1 of .*is no JSON object"
    yield "string.jsonl", b'"text"', "line 1 of .*is no JSON object"
    yield "other.jsonl", b'{"body": "x"}', "has no field 'text'; it has body. Set text_field"
    yield "torn.jsonl", b'{"text": "a"}\n{"text": "b', "line 2 of .*is not a JSON object"
    yield "array.json", b'[\n{"text": "a"}\n]', "line 1 of .*is not a JSON object"
    yield "deep.jsonl", b"[" * 100_000, "line 1 of .*is not a JSON object"
    yield "bad.parquet", b"PAR1" + b"x" * 99, "bad.parquet is not a readable Parquet file"
    yield "empty.parquet", b"", "empty.parquet is not a readable Parquet file"
    yield "page.html", b"<p>", "ends in '.html'"


def damaged_checkpoints(folder):
    """Yield broken starts: a change of a good checkpoint's folder, and what the error says."""

    def config(**changes):
        def change(path):
            fields = json.loads((path / "config.json").read_text()) | changes
            kept = {key: value for key, value in fields.items() if value != "gone"}
            (path / "config.json").write_text(json.dumps(kept))

        return change

    def file(name, content):
        def change(path):
            (path / name).unlink(missing_ok=True)
            if content is not None:
                (path / name).write_bytes(content)

        return change

    def larger_tokenizer(path):
        fields = json.loads((path / "tokenizer.json").read_text())
        fields["added_tokens"].append({**fields["added_tokens"][-1], "id": 9999, "content": "<x>"})
        fields["model"]["vocab"]["<x>"] = 9999
        (path / "tokenizer.json").write_text(json.dumps(fields))

    def smaller(path):
        tensors = load_file(path / "model.safetensors")
        del tensors[next(iter(tensors))]
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    for name in ("d_model", "n_heads", "n_layers", "mask_token_id", "eos_token_id"):
        for value in ("text", -1, 1.5, [1]):
            yield config(**{name: value}), "init_from"
    for name in ("d_model", "n_layers", "max_sequence_length"):
        yield config(**{name: None}), "init_from|config.json"
    yield config(n_layers=HUGE), "The step needs .* more than the"
    yield config(vocab_size="400"), "init_from"
    yield config(model_type="gone"), "model_type=None"
    yield config(model_type="bert"), "model_type='bert'"
    yield config(d_model=64), "do not fit its config.json"
    yield config(block_type="sequential"), "block_type='sequential' is not implemented"
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model_type"'):
        yield file("config.json", content), "config.json"
    yield file("config.json", None), "has no config.json"
    yield file("model.safetensors", None), "no .safetensors file"
    yield file("model.safetensors", b""), "not a readable safetensors file"
    yield file("model.safetensors", b"\0" * 999), "not a readable safetensors file"
    yield smaller, "1 missing"
    for content in (b"{}", b"[]", b"{", b'{"weight_map": {"a": "gone.safetensors"}}'):
        yield file("model.safetensors.index.json", content), "index.json"
    yield file("tokenizer.json", b"{"), "holds no tokenizer that can be loaded"
    yield file("tokenizer.json", b""), "holds no tokenizer that can be loaded"
    yield larger_tokenizer, r"tokens beyond the network's \d+ embeddings: .* \(9999\)"
    yield lambda path: [file.unlink() for file in path.glob("*token*")], "holds no tokenizer"


def cases(folder):
    """Yield name, recipe (a dictionary or a file's bytes), further arguments and expected words."""
    for key, (values, words) in VALUES.items():
        for value in values:
            yield f"{key}={value!r:.60}", {**RECIPE, key: value}, [], words
    for changes, words in TOGETHER:
        yield f"{changes!r:.80}", {**RECIPE, **changes}, [], words
    for name, content, words in files(folder):
        if content is not None:
            (folder / name).write_bytes(content)
        text = [{"paths": [str(folder / name)]}]
        yield name, {**RECIPE, "text": text}, [], words
    (folder / "link.txt").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.txt")
    (folder / "folder.txt").mkdir()
    (folder / "set").mkdir()
    (folder / "set" / "state.json").write_text("{")
    (folder / "junk").mkdir()
    (folder / "junk" / "a.bin").write_bytes(b"\0")
    for path, words in (
        ("link.txt", "is a broken link"),
        ("pipe.txt", "is no file that can be read"),
        ("folder.txt", "is a folder; name its files"),
        ("[", "no file matches"),
        ("$NOT_SET_ANYWHERE/*.txt", "no file matches"),
    ):
        text = [{"paths": [str(folder / path)]}]
        yield path, {**RECIPE, "text": text}, [], words
    for name in ("set", "junk", "absent"):
        text = [{"dataset": str(folder / name)}]
        yield f"dataset {name}", {**RECIPE, "text": text}, [], "dataset=.*could not be loaded"
    (folder / "a file").write_text("x")
    for key in ("output_dir", "cache_dir"):
        for path in (folder / "a file", folder / "a file" / "below"):
            yield f"{key} a file", {**RECIPE, key: str(path)}, [], f"{key}.*(cannot|holds)"
    for name, content in (
        ("nothing", b""), ("a list", b"[1]"), ("text", b"hello"), ("torn", b"{"),
        ("tab", b"\ta: 1"), ("latin-1", b"seed: 1 # na\xefve"),
        ("a class", b"!!python/object/apply:os.system ['true']"),
        ("deep", b"[" * 5000), ("itself", b"&a {text: *a}"), ("no keys", b"1: 2"),
        ("its own base", b"base: recipe.yaml"), ("no base", b"base: gone.yaml"),
        ("odd base", b"base: [1]"), ("a date", b"output_dir: 2024-01-01"),
    ):  # fmt: skip
        yield f"recipe is {name}", content, [], "Recipe|recipe"
    for override in (
        "seed",
        "=3",
        "seed=[",
        "seed.x=3",
        "lora.rank.x=3",
        "seed=1.5",
        "sead=1",
        "a..b=1",
    ):
        yield f"override {override}", RECIPE, [override], "Override|seed|lora"
    good = write_tiny_checkpoint(folder / "good", max_sequence_length=128)
    for number, (change, words) in enumerate(damaged_checkpoints(folder)):
        path = folder / f"start-{number}"
        shutil.copytree(good, path)
        change(path)
        yield f"start {number} ({words})", {**LONGER, "init_from": str(path)}, [], words
    for path in ("asset:nothing", str(folder / "absent"), str(folder / "a file"), "no-slash", "~"):
        yield f"start {path}", {**LONGER, "init_from": path}, [], "nothing|heckpoint"


def test_every_wrong_input_ends_in_one_paragraph_before_weights_load(tmp_path, monkeypatch, capsys):
    reached = []
    monkeypatch.setattr(trainer, "place_network", lambda *_: reached.append("weights") or 1 / 0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe, wrong, number = tmp_path / "recipe.yaml", [], 0
    for name, content, overrides, words in cases(tmp_path):
        number += 1
        if isinstance(content, dict):
            content = {"output_dir": str(tmp_path / "out"), **content}
            if content["output_dir"] == "unused":
                content["output_dir"] = str(tmp_path / "out")
            content = json.dumps(content).encode()
        recipe.write_bytes(content)
        reached.clear()
        try:
            code = main([str(recipe), *overrides])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err.strip()
        fine = code == 2 and not reached and "\n" not in said and len(said) < 2000
        if not fine or not re.search(words, said):
            wrong.append(f"{name}: {code} {reached} {said[-400:]}")
    assert not wrong, f"{len(wrong)} of {number}:\n" + "\n".join(wrong)
    assert number >= 120
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("RANK", "-1"), ("RANK", "7")]
)
def test_wrong_variables_of_torchrun_are_named(tmp_path, monkeypatch, capsys, name, value):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "output_dir": str(tmp_path / "out")}))
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main([str(recipe)])
    assert stop.value.code == 2
    assert f"{name}=" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_text(tmp_path):
    from opencompass_llada.finetune.recipe import TextSource
    from opencompass_llada.finetune.text import read_documents

    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "text"}')
    paths = (str(tmp_path / "a.txt"), str(tmp_path / "a.jsonl"))
    assert [row.text for row in read_documents(TextSource(paths=paths))] == ["text", "text"]


def test_only_logits_that_are_computed_count():
    """At 256K tokens all logits of an 8B take 130 GB; perplexity needs those of the target."""
    ranks = Ranks(rank=0, world_size=1, sequence_parallel=1, device=torch.device("cpu"))
    sizes = {"d_model": 64, "n_heads": 1, "n_layers": 1, "mlp_hidden_size": 64}
    config = LLaDAConfig(**sizes, vocab_size=126464, mask_token_id=0, eos_token_id=0)
    shape = NetworkShape(config.shape)
    text, length = {"generated_seed": 8, "num_documents": 1}, 262144

    def recipe(**evaluation):
        return small_recipe(memory_limit=2.0, evaluation=evaluation)

    check_fits(recipe(text=text, lengths=[length]), shape, ranks)
    with pytest.raises(ValueError, match=f"retrieval_lengths={length} needs 133.* GB"):
        check_fits(recipe(retrieval_lengths=[length]), shape, ranks)
