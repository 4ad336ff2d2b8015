"""Prompts and answers are the ids that inference sends and would have to answer."""

from __future__ import annotations

import json

import pytest
from finetune_runs import LONGER, small_recipe, small_trainer
from tiny import EOS_TOKEN
from tiny_chat import BOS_ID, chat_tokenizer, write_chat_checkpoint

from opencompass_llada.finetune import encoding
from opencompass_llada.finetune.prompts import SampleEncoder
from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.recipe_file import parse_recipe
from opencompass_llada.finetune.text import Document, read_documents
from opencompass_llada.finetune.tokenizing import tokenize_source
from opencompass_llada.finetune.tokens import TrainingTokenizer

#: Plain, with spaces at its ends, with text of special tokens, and of no language.
PROMPTS = ["Why?", " two  spaces \n", "Say <|eot_id|> or <|mdm_mask|>.", "naïve 字 \u0007", ""]
CHATS = [None, {}, {"system": "Be kind."}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_chat_checkpoint(tmp_path_factory.mktemp("chat") / "tiny-instruct")


def source_of(folder, rows, **changes):
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"paths": [str(file)], "prompt_field": "q", **changes}


def trained_ids(folder, checkpoint, source):
    """Return the prompts and answers of a run's tokens, as a trainer has them."""
    recipe = {**LONGER, "init_from": checkpoint, "text": [source]}
    trainer = small_trainer(folder / "out", recipe)
    (text,) = trainer.data.texts
    samples = [text.piece(n, 0, 10**6).tolist() for n in range(len(text.ends))]
    lengths = text.prompt_lengths.tolist()
    return [(ids[:n], ids[n:]) for ids, n in zip(samples, lengths, strict=True)]


@pytest.mark.parametrize("chat", CHATS, ids=["plain", "chat", "system"])
def test_prompts_are_the_ids_that_the_wrapper_sends(tmp_path, checkpoint, chat):
    pytest.importorskip("opencompass")
    from opencompass_llada.wrapper import LLaDACausalLM

    model = LLaDACausalLM(checkpoint, tokenizer_only=True, chat=True if chat == {} else chat)
    rows = [{"q": prompt, "text": f"Answer {n}."} for n, prompt in enumerate(PROMPTS)]
    source = source_of(tmp_path, rows, **({} if chat is None else {"chat": chat}))
    found = trained_ids(tmp_path, checkpoint, source)
    for prompt, answer, (ids, answer_ids) in zip(
        PROMPTS, (row["text"] for row in rows), found, strict=True
    ):
        sent = prompt if chat is None else model.parse_template(prompt, mode="gen")
        assert ids == model._encoder.encode(sent)
        assert ids[0] == BOS_ID
        assert ids.count(BOS_ID) == 1
        # What is sampled behind the prompt is decoded alone, and ends with the end token.
        end = model.tokenizer.convert_tokens_to_ids(EOS_TOKEN)
        assert answer_ids[-1] == end
        assert model._encoder.decode(answer_ids) == answer


def test_conversations_are_rendered_as_a_whole(tmp_path, checkpoint):
    said = [
        {"role": "user", "content": "One <|eot_id|>?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    source = source_of(tmp_path, [{"q": said, "text": "Four."}], chat={}, answer_end="<|eot_id|>")
    ((ids, answer),) = trained_ids(tmp_path, checkpoint, source)
    tokenizer = chat_tokenizer()
    said[0]["content"] = "One X?"  # the template's own ids, where nothing is special
    official = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    expected = tokenizer(official, add_special_tokens=False).input_ids
    place = expected.index(tokenizer.convert_tokens_to_ids("X"))
    rest = len(expected) - place - 1
    assert ids[:place] == expected[:place]
    assert ids[-rest:] == expected[-rest:]
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|eot_id|>", EOS_TOKEN)]
    assert ends[0] not in ids[place:-rest]
    assert answer == [*tokenizer("Four.", add_special_tokens=False).input_ids, *ends]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([{"role": "assistant", "content": "x"}], "no conversation that ends in the user's"),
        ([{"role": "user", "content": ""}], "no conversation that ends in the user's"),
        ([], "no conversation"),
        (["x"], "no conversation"),
        ([{"role": "judge", "content": "x"}], "role 'judge'"),
        ([{"role": "user", "content": 3}], "turn of int where text is wanted"),
        (3, "is no text but '3'"),
    ],
)
def test_prompts_that_are_no_conversation_name_their_line(tmp_path, prompt, words):
    source = source_of(tmp_path, [{"q": prompt, "text": "x"}], chat={})
    (source,) = small_recipe(text=[source], strategy="adaptive").text
    with pytest.raises(ValueError, match=words) as error:
        list(read_documents(source))
    assert "line 1 of" in str(error.value)


def test_messages_need_a_chat_template(tmp_path, checkpoint):
    messages = [{"role": "user", "content": "x"}]
    source = source_of(tmp_path, [{"q": messages, "text": "x"}])
    with pytest.raises(ValueError, match="is no text"):
        trained_ids(tmp_path, checkpoint, source)
    tokens = TrainingTokenizer(tokenizer=chat_tokenizer(None), end_token_id=256, mask_token_id=258)
    with pytest.raises(ValueError, match="has no chat template"):
        tokenize_source(
            small_recipe(text=[{**source, "chat": {}}], strategy="adaptive").text[0], tokens, None
        )


def test_another_template_or_end_makes_other_tokens(tmp_path):
    rows = [{"q": "Why?", "text": "So."}]
    (tmp_path / "template.jinja").write_text(
        "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    )
    tokens = TrainingTokenizer(tokenizer=chat_tokenizer(), end_token_id=256, mask_token_id=258)
    made = []
    for changes in (
        {},
        {"chat": {}},
        {"chat": {"template": str(tmp_path / "template.jinja")}},
        {"answer_end": "<|eot_id|>"},
    ):
        given = source_of(tmp_path, rows, **changes)
        (source,) = small_recipe(text=[given], strategy="adaptive").text
        for _ in range(2):  # made, and found again
            text = tokenize_source(source, tokens, tmp_path / "cache")
        made.append(text.tokens.tolist())
    assert len({tuple(ids) for ids in made}) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert tokens.decode(made[2]) == f"[Why?]So.{EOS_TOKEN}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chat": {}, "prompt_field": None}, "chat .* no effect without prompt_field"),
        ({"answer_end": "x", "prompt_field": None}, "answer_end .* without prompt_field"),
        ({"chat": {"sytem": "x"}}, "Did you mean 'system'"),
        ({"chat": True}, "chat=True must be"),
    ],
)
def test_wrong_keys_are_refused(change, words):
    text = [{"paths": ["a.jsonl"], "prompt_field": "q", **change}]
    with pytest.raises(ValueError, match=words):
        parse_recipe({**LONGER, "init_from": "x", "text": text})


def test_any_number_of_processes_gives_the_same_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 50)
    rows = [{"q": f"Why {n}?", "text": f"So {n}."} for n in range(40)]
    tokens = TrainingTokenizer(tokenizer=chat_tokenizer(), end_token_id=256, mask_token_id=258)
    given = source_of(tmp_path, rows, chat={})
    (source,) = small_recipe(text=[given], strategy="adaptive").text
    one, two = (tokenize_source(source, tokens, None, num_processes=n) for n in (1, 2))
    assert one.digest == two.digest
    assert len(one.ends) == 40


def test_an_unknown_end_is_refused():
    tokens = TrainingTokenizer(tokenizer=chat_tokenizer(), end_token_id=256, mask_token_id=258)
    source = TextSource(paths=("a",), prompt_field="q", answer_end="<|im_end|>")
    with pytest.raises(ValueError, match="answer_end='<|im_end|>' is no token"):
        SampleEncoder(source, tokens)
    plain = TextSource(paths=("a",), prompt_field="q")
    prompts, answers = SampleEncoder(plain, tokens).encode([Document("a", "b")])
    assert (len(prompts[0]), len(answers[0])) == (2, 1)
