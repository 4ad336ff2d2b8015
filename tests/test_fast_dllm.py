"""Fast-dLLM v2: its network against transformers' Qwen2, its generation against a naive loop."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_dream import EOS_ID, EOT_ID, MASK_ID
from tiny_fast_dllm import fast_dllm_fields, tiny_fast_dllm, write_tiny_fast_dllm
from transformers import Qwen2Config, Qwen2ForCausalLM

from opencompass_llada.engines import MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.families import find_family
from opencompass_llada.networks import CheckpointError, FastDLLMConfig, load_checkpoint
from opencompass_llada.networks.attention_pattern import Blocks
from opencompass_llada.sampling import SamplerConfig, SpecialTokens

TOKENS = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=EOT_ID, eot_token_id=EOT_ID)
FAMILY = find_family({"model_type": "Fast_dLLM_Qwen"}, "", None)
BLOCK, PART = 8, 4
PROMPT = [72, 101, 5, 6, 7, 8, 9, 10, 11, 200, 14, 41, 3, 250, 17, 90, 33, 34, 35]
LENGTHS = (1, 3, 8, 11, 16, 17, 19)
"""Of prompts that end inside a block, at its end and a token behind it."""


def qwen2(fields, weights):
    own = {"auto_map", "architectures", "model_type", "torch_dtype", "transformers_version"}
    own |= {"bd_size", "conplemenrary_mask", "mask_token_id"}
    config = Qwen2Config(**{k: v for k, v in fields.items() if k not in own})
    config._attn_implementation = "eager"
    model = Qwen2ForCausalLM(config).float().eval()
    model.load_state_dict(weights)
    return model


def causal_logits(model, ids, block):
    """Return logits [L, V] of one row of blocks, not shifted, by a mask written out here."""
    blocks_L = torch.arange(len(ids)) // block
    mask = torch.zeros(len(ids), len(ids))
    mask.masked_fill_(blocks_L[:, None] < blocks_L[None, :], -torch.inf)
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=mask[None, None]).logits[0]


def naive_generate(logits_of, prompt, length, *, threshold, block=BLOCK, part=PART, stop=None):
    """Recompute all for each step, as modeling.py's generate says it; return ids and passes.

    Differs from it where a prompt is exactly one block, which that forgets; its passes over a last
    block, whose next token nobody wants, are left out.
    """
    ids, passes = list(prompt), int(len(prompt) >= block)
    if len(prompt) % block == 0:
        ids.append(int(logits_of(ids)[-1].argmax()))
    end = len(prompt) + length

    def end_of(ids, known):
        """Return where an answer ends whose first stop token and all before it are known, or 0."""
        stops = [i for i in range(len(prompt), len(ids)) if known[i] and ids[i] == stop]
        return stops[0] + 1 if stops and all(known[: stops[0]]) else 0

    while True:
        known = [True] * len(ids) + [False] * (-len(ids) % block)
        ids += [MASK_ID] * (-len(ids) % block)
        for first in range(len(ids) - block, len(ids), part):
            places = range(first, first + part)
            while first < end and not all(known[first : first + part]):
                if end_of(ids, known):
                    break
                logits = logits_of(ids)
                passes += 1
                shifted = torch.cat([logits[:1], logits[:-1]]).double().softmax(-1)
                best = {i: float(shifted[i].max()) for i in places if not known[i]}
                surest = max(best, key=lambda i: best[i])
                for i, probability in best.items():
                    if probability > threshold or i == surest:
                        ids[i], known[i] = int(shifted[i].argmax()), True
        if stopped := end_of(ids, known):
            return ids[len(prompt) : stopped], passes
        if len(ids) >= end:
            return ids[len(prompt) : end], passes
        ids.append(int(logits_of(ids)[-1].argmax()))
        passes += 1


@pytest.fixture(scope="module")
def model():
    return tiny_fast_dllm(seed=3)


@pytest.fixture(scope="module")
def reference(model):
    other = qwen2(fast_dllm_fields(), model.state_dict())
    return lambda ids: causal_logits(other, ids, BLOCK)


def make_engine(model, *, tokens=TOKENS, **options):
    options = {"sub_block_length": PART, **options}
    settings = SamplerSettings(options, FAMILY.defaults()).for_pattern(model.attention_pattern)
    return MaskedDiffusionEngine(model, settings, tokens)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_qwen2_with_the_mask_of_blocks_shifted(tmp_path, tied):
    folder = write_tiny_fast_dllm(tmp_path, num_shards=2, tie_word_embeddings=tied)
    weights = {}
    for shard in folder.glob("*.safetensors"):
        weights |= load_file(shard)
    fields = json.loads((folder / "config.json").read_text())
    if tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    expected = causal_logits(qwen2(fields, weights), PROMPT, BLOCK)
    model = load_checkpoint(folder, dtype=torch.float32)
    assert model.attention_pattern == Blocks(BLOCK)
    ours = model(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(ours[1:], expected[:-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.5, "a flat output would make the comparison vacuous"


@pytest.mark.parametrize("threshold", [1.0, 0.9, 0.2])
def test_generation_is_the_published_one_token_for_token_and_pass_for_pass(
    model, reference, threshold
):
    prompts = [PROMPT[:length] for length in LENGTHS]
    rule = {"type": "threshold", "value": threshold}
    answers = {}
    for cache in ("prefix", "none"):
        engine = make_engine(model, acceptance=rule, cache=cache)
        answers[cache] = engine.generate(prompts, max_new_tokens=21)
    cached = [one.token_ids for one in answers["prefix"]]
    assert cached == [one.token_ids for one in answers["none"]]
    naive = [naive_generate(reference, p, 21, threshold=threshold) for p in prompts]
    assert cached == [ids for ids, _ in naive]
    # A prompt's last block runs once more for the token after it, which published prefill gives.
    more = [int(n % BLOCK == 0) for n in LENGTHS]
    passes = [one.num_forward_passes for one in answers["prefix"]]
    assert passes == [n + m for (_, n), m in zip(naive, more, strict=True)]


def test_the_first_token_of_a_block_is_never_denoised(model, reference):
    """A rule that let the block decide it, too, would differ; else the test above were vacuous."""
    greedy, _ = naive_generate(reference, PROMPT[:8], 16, threshold=1.0)
    whole = [*PROMPT[:8], *[MASK_ID] * 8]
    shifted = reference(whole)[7:15].softmax(-1).max(-1).values
    assert int(shifted.argmax()) != 0, "the first token happened to be the surest"
    assert len(set(greedy)) > 4


def test_a_ragged_batch_equals_one_at_a_time(model):
    prompts = [PROMPT[:length] for length in LENGTHS]
    rule = {"type": "threshold", "value": 0.3}
    for options in ({}, {"temperature": 0.7, "top_p": 0.95}, {"sub_block_length": None}):
        engine = make_engine(model, acceptance=rule, **options)
        together = engine.generate(prompts, max_new_tokens=13)
        engine = make_engine(model, acceptance=rule, **options)
        alone = [engine.generate([p], max_new_tokens=13)[0] for p in prompts]
        assert [g.token_ids for g in together] == [g.token_ids for g in alone]
        passes = [g.num_forward_passes for g in together]
        assert passes == [g.num_forward_passes for g in alone]


@pytest.mark.parametrize("place", [0, 5, 7, 8, 12])
def test_it_stops_at_the_published_place(model, reference, place):
    prompt = PROMPT[:16]
    free, _ = naive_generate(reference, prompt, 24, threshold=0.3)
    stop = free[place]
    expected, passes = naive_generate(reference, prompt, 24, threshold=0.3, stop=stop)
    tokens = SpecialTokens(mask_token_id=MASK_ID, eos_token_id=stop)
    rule = {"type": "threshold", "value": 0.3}
    engine = make_engine(model, tokens=tokens, acceptance=rule, early_stop=True)
    (answer,) = engine.generate([prompt], max_new_tokens=24)
    assert answer.token_ids == [*expected, *[stop] * (24 - len(expected))]
    assert answer.num_forward_passes == passes + 1


def test_what_config_json_lacks_is_the_published_default_or_an_error():
    fields = fast_dllm_fields(vocab_size=152064)
    del fields["mask_token_id"]
    assert FastDLLMConfig.from_dict(fields).mask_token_id == 151665
    for name in ("bd_size", "eos_token_id", "max_position_embeddings"):
        with pytest.raises(CheckpointError, match=f"has no {name}"):
            FastDLLMConfig.from_dict({k: v for k, v in fields.items() if k != name})
    with pytest.raises(ValueError, match="use_sliding_window=True is not implemented"):
        FastDLLMConfig.from_dict({**fields, "use_sliding_window": True})


def test_wrong_lengths_of_blocks_are_named(model):
    with pytest.raises(ValueError, match="sub_block_length=6 must divide the 8 tokens.*use 2"):
        make_engine(model, sub_block_length=6).generate([PROMPT], max_new_tokens=8)
    with pytest.raises(ValueError, match="block_length=16 differs from the 8 tokens"):
        make_engine(model, block_length=16).generate([PROMPT], max_new_tokens=8)
    with pytest.raises(ValueError, match="sub_block_length=4 cuts.*use block_length=4"):
        SamplerConfig(sub_block_length=4).for_pattern(None)


def test_the_family_finds_its_tokens(tmp_path):
    from transformers import AutoTokenizer

    folder = write_tiny_fast_dllm(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    fields = json.loads((folder / "config.json").read_text())
    found = FAMILY.special_tokens(str(folder), fields, tokenizer)
    assert found == TOKENS
    del fields["mask_token_id"]
    fields["vocab_size"] = 152064
    assert FAMILY.special_tokens(str(folder), fields, tokenizer).mask_token_id == 151665
    with pytest.raises(ValueError, match="no eos_token_id"):
        FAMILY.special_tokens(str(folder), {"mask_token_id": EOS_ID}, tokenizer)
