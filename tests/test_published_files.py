"""Published checkpoints' own files, as far as they are at hand: tensors, tokenizers, templates."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from opencompass_llada.networks import NETWORKS, read_config, read_model_config
from opencompass_llada.networks.attention_pattern import FULL, Blocks
from opencompass_llada.prompting.chat import ChatRenderer, parse_chat, read_turns
from opencompass_llada.prompting.encode import PromptEncoder, load_tokenizer

TEXTS = [
    "Hello world",
    "  Zahlen 12345, 中文字符 ünï",
    "def f(x):\n\treturn x  # !!\n\n\n",
    "<|im_end|>",
]
TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": TEXTS[1]},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": TEXTS[2]},
]


def build(folder):
    """Return a checkpoint's network on the meta device."""
    fields = read_model_config(folder)
    network = NETWORKS[fields["model_type"]]
    with torch.device("meta"):
        return network(read_config(network, fields)).to(torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "number", "pattern"),
    [("LLaDA-8B-Instruct", 291, FULL), ("SDAR-8B-Chat", 399, Blocks(4))],
)
def test_the_tensors_are_those_of_the_published_index(published_files, name, number, pattern):
    folder = published_files(name)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    model = build(folder)
    own = model.state_dict()
    assert set(own) == set(index["weight_map"])
    assert len(own) == number
    num_bytes = sum(weight.numel() * weight.element_size() for weight in own.values())
    assert num_bytes == index["metadata"]["total_size"]
    assert model.attention_pattern == pattern
    assert model.resolved_rope.trained_length == {FULL: 4096}.get(pattern, 32768)


def test_sdars_tokenizer_and_template_give_the_ids_of_transformers(published_files):
    folder = published_files("SDAR-8B-Chat")
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ours = load_tokenizer(folder, {})
    encoder = PromptEncoder(ours, read_model_config(folder)["mask_token_id"])
    assert theirs.mask_token_id == encoder.mask_token_id == 151669
    for text in TEXTS:
        assert encoder.encode(text) == theirs(text)["input_ids"]
    literal = encoder.encode("a <|MASK|> b")
    assert 151669 not in literal, "the mask's text in a prompt is no mask"
    for number, variables in ((4, {}), (2, {"enable_thinking": False})):
        renderer = ChatRenderer(ours, parse_chat({"variables": variables}))
        prompt = renderer.render(read_turns(TURNS[:number], "gen"), for_answer=True)
        expected = theirs.apply_chat_template(
            TURNS[:number], add_generation_prompt=True, tokenize=False, **variables
        )
        assert str(prompt) == expected
        assert encoder.encode(prompt) == theirs(expected)["input_ids"]


def test_lladas_template_is_rendered_as_transformers_renders_it(published_files, tmp_path):
    """Its tokenizer.json is not at hand; a tokenizer of bytes stands in with its template."""
    from tiny import tiny_tokenizer

    settings = json.loads(
        (published_files("LLaDA-8B-Instruct") / "tokenizer_config.json").read_text()
    )
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = settings["chat_template"]
    tokenizer.bos_token = "<|spare|>"
    renderer = ChatRenderer(tokenizer, parse_chat(True))
    turns = [turn for turn in TURNS if "\n\n" not in turn["content"]]
    turns.append({"role": "user", "content": "And?"})
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert str(renderer.render(read_turns(turns, "gen"), for_answer=True)) == expected
    assert expected.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
