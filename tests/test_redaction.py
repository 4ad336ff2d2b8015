"""No secret is written: configs that hold one are refused, command lines and logs are redacted."""

import pytest
from mmengine.config import ConfigDict

from opencompass_llada.redaction import chosen_variables, redact, refuse_secrets

TOKEN = "hf_" + "a1B2c3D4" * 4


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"tokenizer_kwargs": {"token": "abc"}}, "models[0].tokenizer_kwargs.token"),
        ({"tokenizer_kwargs": {"use_auth_token": TOKEN}}, "use_auth_token"),
        ({"path": f"https://user:{'x' * 12}@host/model"}, "models[0].path"),
        ({"notes": ["first", f"use {TOKEN}"]}, "models[0].notes[1]"),
        ({"headers": {"Authorization": "Basic abc"}}, "Authorization"),
        ({"api_key": ["sk-" + "z" * 30]}, "api_key[0]"),
        ({"password": "abc"}, "password"),
        ({"key": "0a1b2c3d4e5f" * 2 + ".XyZ"}, "models[0].key"),
        ({"secretkey": "abc"}, "secretkey"),
    ],
)
def test_a_config_with_a_secret_is_refused_without_showing_it(model, place):
    with pytest.raises(ValueError, match="HF_TOKEN") as caught:
        refuse_secrets(ConfigDict(models=[model], datasets=[]))
    assert place in str(caught.value)
    for secret in (TOKEN, "x" * 12, "z" * 30, "Basic abc", "0a1b2c"):
        assert secret not in str(caught.value)


def test_what_is_no_secret_passes():
    fine = {
        "tokenizer_kwargs": {"eos_token": "<|end|>", "pad_token": "<pad>", "token": True},
        "path": "/models/hf_small/sk-learn", "key": "ENV", "api_key": "EMPTY", "token": None,
        "prompt": "The secret password is in the token above: what is it?",
    }  # fmt: skip
    keys = {"key": "YOUR_API_KEY_OF_THE_SERVICE"}
    refuse_secrets(ConfigDict(models=[fine, keys], datasets=[{"tokenizer": "gpt-4"}]))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"run.py x --hf-token {TOKEN}", TOKEN),
        ("run.py --tokenizer-kwargs token=abcdef", "abcdef"),
        ("dict(password='abcdef', n=1)", "abcdef"),
        ('{"api_key": "abcdef"}', "abcdef"),
        ("git clone https://me:abcdef@host/x", "abcdef"),
        ("Authorization: Bearer abcdefghij", "abcdefghij"),
        ("LLADA_API_KEY=abcdef run.py x", "abcdef"),
        ("https://host/x?token=abcdef&y=1", "abcdef"),
    ],
)
def test_texts_are_redacted(text, secret):
    assert secret not in redact(text)
    assert "<hidden>" in redact(text)


def test_variables_in_records_hold_no_secrets(monkeypatch):
    monkeypatch.setenv("LLADA_API_KEY", "abc def")
    monkeypatch.setenv("LLADA_MODELS", f"tiny=https://me:abcdef@host/{TOKEN}")
    monkeypatch.setenv("LLADA_TOKENIZER", "model")
    shown = chosen_variables()
    assert shown["LLADA_API_KEY"] == "<hidden>"
    assert shown["LLADA_TOKENIZER"] == "model"
    assert not any(secret in str(shown) for secret in ("abc", TOKEN))


def test_texts_without_secrets_are_as_they_are():
    text = "run.py configs/eval.py -w out --max-num-workers 2 eos_token=<|end|> num_tokens=5"
    assert redact(text) == text
