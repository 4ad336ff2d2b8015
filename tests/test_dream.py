"""Dream's network against transformers' Qwen2 with a full attention mask, and its config."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_dream import MASK_ID, dream_fields, tiny_dream, write_tiny_dream
from transformers import AutoConfig, AutoModel, Qwen2Config, Qwen2ForCausalLM

from opencompass_llada.networks import (
    CheckpointError,
    DreamConfig,
    DreamForMaskedDiffusion,
    load_checkpoint,
    open_checkpoint,
)
from opencompass_llada.rope.methods import parse_rope_scaling

ROWS = [[3, 250, 17, MASK_ID, MASK_ID, 90, 41, MASK_ID], [9, 8, MASK_ID, MASK_ID], [MASK_ID]]


def qwen2_logits(folder, ids: list[int], **changed) -> torch.Tensor:
    """Return Qwen2's logits [L, V] of one row under a full mask, as they are (not shifted)."""
    fields = json.loads((folder / "config.json").read_text())
    own = {"auto_map", "architectures", "model_type", "torch_dtype", "transformers_version"}
    config = Qwen2Config(
        **{name: value for name, value in fields.items() if name not in own} | changed
    )
    config._attn_implementation = "eager"
    model = Qwen2ForCausalLM(config).float().eval()
    weights = {}
    for shard in folder.glob("*.safetensors"):
        weights |= load_file(shard)
    model.load_state_dict(weights)
    full = torch.zeros(1, 1, len(ids), len(ids))  # added to the scores: every key is seen
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=full).logits[0]


def realigned(logits_LV: torch.Tensor) -> torch.Tensor:
    """Shift as Dream's own code does: the first position keeps its own logits."""
    return torch.cat([logits_LV[:1], logits_LV[:-1]])


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_logits_are_those_of_qwen2_with_a_full_mask_shifted(tmp_path, num_shards, kv_heads):
    folder = write_tiny_dream(tmp_path, num_shards=num_shards, num_key_value_heads=kv_heads)
    model = load_checkpoint(folder, dtype=torch.float32)
    for ids in ROWS:
        expected = realigned(qwen2_logits(folder, ids))
        assert expected.std() > 0.5, "a flat output would make the comparison vacuous"
        ours = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_ragged_batch_gives_the_logits_of_each_row_at_any_positions(tmp_path):
    folder = write_tiny_dream(tmp_path)
    model = load_checkpoint(folder, dtype=torch.float32)
    width = max(map(len, ROWS))
    ids = torch.tensor([row + [7] * (width - len(row)) for row in ROWS])
    lengths = torch.tensor([len(row) for row in ROWS])
    positions = torch.tensor([[7, 0, 1, 4], [3, 2, 1, 0], [0, 0, 0, 0]])
    batch = model.logits_at(ids, positions, lengths)
    for row, ids_L in enumerate(ROWS):
        expected = realigned(qwen2_logits(folder, ids_L))[positions[row]]
        torch.testing.assert_close(batch[row], expected, rtol=1e-5, atol=1e-5)
    unmasked = model.logits_at(ids, positions)
    assert (unmasked[1] - batch[1]).abs().max() > 1e-3, "padding had no influence to remove"


def test_states_are_realigned_too():
    """The likelihood goes by hidden states and the head, in slices."""
    model = tiny_dream()
    ids = torch.tensor([ROWS[0]])
    states = model.hidden_states(ids, None, torch.tensor([[4, 0]]))
    expected = model(ids).logits[:, [4, 0]]
    torch.testing.assert_close(model.get_output_embeddings()(states), expected)
    raw = model(ids).logits[0]
    assert (raw[0] - raw[1]).abs().max() == 0, "positions 0 and 1 are both predicted at 0"


def test_scaling_counts_from_the_2048_tokens_that_dream_was_trained_on(tmp_path):
    folder = write_tiny_dream(
        tmp_path, hidden_size=256, num_attention_heads=2, num_key_value_heads=1
    )
    plain, _ = open_checkpoint(folder)
    assert plain.resolved_rope.longest_context == 2048
    scaling = parse_rope_scaling({"type": "ntk", "target_length": 4096})
    scaled, _ = open_checkpoint(folder, rope_scaling=scaling)
    assert scaled.resolved_rope.theta_multiplier == pytest.approx(4.68, abs=0.005)  # paper: 5
    longer = parse_rope_scaling({"type": "ntk", "target_length": 65536, "trained_length": 32768})
    assert open_checkpoint(folder, rope_scaling=longer)[0].resolved_rope.trained_length == 32768


def test_a_scaled_network_is_qwen2_with_the_scaled_base(tmp_path):
    folder = write_tiny_dream(tmp_path)
    scaling = parse_rope_scaling({"type": "ntk", "theta_multiplier": 5})
    model = load_checkpoint(folder, dtype=torch.float32, rope_scaling=scaling)
    expected = realigned(qwen2_logits(folder, ROWS[0], rope_theta=5e6))
    ours = model(torch.tensor([ROWS[0]])).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    plain = load_checkpoint(folder, dtype=torch.float32)(torch.tensor([ROWS[0]])).logits[0]
    assert (plain - ours).abs().max() > 1e-4


def test_auto_classes_and_save_pretrained_round_trip(tmp_path):
    folder = write_tiny_dream(tmp_path / "published")
    assert isinstance(AutoConfig.from_pretrained(folder, trust_remote_code=False), DreamConfig)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    assert isinstance(model, DreamForMaskedDiffusion)
    ids = torch.tensor([ROWS[0]])
    expected = load_checkpoint(folder, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    model.save_pretrained(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(again(ids).logits, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_dropout", 0.1),
        ("use_sliding_window", True),
        ("tie_word_embeddings", True),
        ("mlp_bias", True),
        ("use_mrope", True),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "dynamic", "factor": 4.0}),
    ],
)
def test_fields_that_are_not_implemented_are_refused_by_name(tmp_path, field, value):
    (tmp_path / "config.json").write_text(json.dumps(dream_fields(**{field: value})))
    with pytest.raises(ValueError, match=f"{field}=") as error:
        load_checkpoint(tmp_path)
    assert "Dream-v0-7B" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 33}, "hidden_size=33 must be a multiple of num_attention_heads=4"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple"),
        ({"mask_token_id": 264}, "mask_token_id=264 must be in 0 .. vocab_size-1=263"),
        ({"eos_token_id": -1}, "eos_token_id=-1 must be at least 0"),
    ],
)
def test_sizes_and_ids_that_do_not_fit_are_refused(tmp_path, fields, message):
    (tmp_path / "config.json").write_text(json.dumps(dream_fields(**fields)))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_shape_lists_its_tensors(tmp_path):
    folder = write_tiny_dream(tmp_path)
    (folder / "config.json").write_text(json.dumps(dream_fields(num_hidden_layers=1)))
    with pytest.raises(CheckpointError, match=r"12 extra: model\.layers\.1\."):
        load_checkpoint(folder)
