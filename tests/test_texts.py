"""Texts to ids and back, alike under both majors of transformers, whatever a tokenizer adds."""

import json

import pytest
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from opencompass_llada.families import find_family
from opencompass_llada.prompting.encode import PromptEncoder, load_tokenizer

BOS, EOS = 256, 257
TEXTS = ["x != y", "it 's , he did n't . Really ?", "a  b\n\n\tc ", "Schön, 日本 🙂", " don't [x] "]
CLASSES = ["PreTrainedTokenizerFast", "LlamaTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer"]
CLASSES += ["GPT2Tokenizer", "GPTNeoXTokenizerFast", "TokenizersBackend"]


def byte_level(template=None):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    level = processors.ByteLevel(trim_offsets=False)
    if template is None:
        tokenizer.post_processor = level
    else:
        ends = [("<s>", BOS), ("</s>", EOS)]
        added = processors.TemplateProcessing(single=template, special_tokens=ends)
        tokenizer.post_processor = processors.Sequence([level, added])
    return tokenizer


def sentence_piece():
    """Return a tokenizer as LLaMA-2's: a space before every text, bytes for unknown letters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁"]
    pieces += [*"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ!?.,'[]"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write(folder, tokenizer, **settings):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    given = {"bos_token": "<s>", "eos_token": "</s>", **settings}
    given = {"tokenizer_class": "PreTrainedTokenizerFast", **given}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def encoder(folder, mask=None, **options):
    return PromptEncoder(load_tokenizer(folder, options), mask)


@pytest.mark.parametrize("clean", [True, False, None])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("bytes", name) for name in CLASSES] + [("pieces", name) for name in CLASSES[:3]],
)
def test_decoding_gives_the_text_back(tmp_path, name, clean, kind):
    settings = {} if clean is None else {"clean_up_tokenization_spaces": clean}
    tokenizer = byte_level("<s> $A") if kind == "bytes" else sentence_piece()
    read = encoder(write(tmp_path / "t", tokenizer, tokenizer_class=name, **settings))
    for text in TEXTS:
        assert read.decode(read.encode(text)) == text


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("template", "start"),
    [(None, []), ("<s> $A", [BOS]), ("$A </s>", []), ("<s> $A </s>", [BOS])],
)
def test_tokenizer_json_says_what_stands_before_and_nothing_stands_behind(
    tmp_path, name, template, start
):
    read = encoder(write(tmp_path / "t", byte_level(template), tokenizer_class=name))
    plain = list(byte_level().encode("x != y").ids)
    assert read.encode("x != y") == [*start, *plain]
    assert list(read.tokenizer("x != y")["input_ids"]) == [*start, *plain], "counts of others too"
    assert read.tokenizer("x", add_special_tokens=False)["input_ids"] == plain[:1]


@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "GemmaTokenizerFast"])
@pytest.mark.parametrize("template", [None, "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("option", [True, False])
def test_llamas_classes_write_the_start_as_their_option_says(tmp_path, name, template, option):
    if name == "GemmaTokenizerFast":
        pytest.importorskip("transformers.models.gemma.tokenization_gemma_fast")
    settings = {"tokenizer_class": name, "add_bos_token": option, "add_eos_token": True}
    read = encoder(write(tmp_path / "t", byte_level(template), **settings))
    assert [i for i in read.encode("x y") if i >= BOS] == [BOS] * option


def test_a_hub_id_is_read_as_its_folder_is(tmp_path, monkeypatch):
    folder = write(tmp_path / "t", byte_level("<s> $A </s>"), tokenizer_class="GPT2Tokenizer")
    asked = []

    def fetch(name, **options):
        asked.append((name, options.get("revision")))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert encoder("maker/model", revision="main").encode("x y") == encoder(folder).encode("x y")
    assert asked == [("maker/model", "main")]


def test_what_is_put_behind_a_text_is_said_once(tmp_path, caplog):
    read = encoder(write(tmp_path / "t", byte_level("<s> $A </s>")))
    assert caplog.text.count("puts </s> behind every text; it is left out") == 1
    assert read.encode("") in ([], [BOS])


def test_a_start_that_is_written_in_the_text_stays_one(tmp_path):
    read = encoder(write(tmp_path / "t", byte_level("<s> $A")))
    assert read.encode("<s>ab") == read.encode("ab")
    assert read.encode("<s>ab")[:2] == [BOS, read.encode("a")[1]]
    assert encoder(write(tmp_path / "u", byte_level())).encode("<s>a")[0] == BOS


@pytest.mark.parametrize("writer", [write_tiny_checkpoint, write_llama_checkpoint])
def test_ids_beyond_the_embedding_are_refused_at_load(tmp_path, writer):
    folder = writer(tmp_path)
    tokenizer = load_tokenizer(folder, {})
    fields = json.loads((folder / "config.json").read_text())
    family = find_family(fields, str(folder), None)
    family.special_tokens(str(folder), fields, tokenizer)
    tokenizer.add_tokens(["<one more>", "<another>"])
    with pytest.raises(
        ValueError, match=r"2 tokens beyond the network's 260 .*'<one more>' \(260\)"
    ):
        family.special_tokens(str(folder), fields, tokenizer)


def test_the_place_of_an_image_is_text_and_needs_no_embedding(tmp_path):
    """As google/gemma-3-1b-it has it: <image_soft_token> is 262144 of 262144 embeddings."""
    folder = write_llama_checkpoint(tmp_path)
    tokenizer = load_tokenizer(folder, {})
    plain = tokenizer("a<image>b", add_special_tokens=False)["input_ids"]
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "extra_special_tokens": {"image_token": "<image>"}}))
    tokenizer = load_tokenizer(folder, {})
    assert 260 in tokenizer("a<image>b")["input_ids"]
    fields = json.loads((folder / "config.json").read_text())
    find_family(fields, str(folder), None).special_tokens(str(folder), fields, tokenizer)
    assert PromptEncoder(tokenizer, None).encode("a<image>b")[-len(plain) :] == plain
    assert 260 not in PromptEncoder(tokenizer, None).encode("a<image>b")


def test_an_option_of_the_user_still_counts(tmp_path):
    folder = write(tmp_path / "t", byte_level(), tokenizer_class="GPT2Tokenizer")
    assert encoder(folder).encode("a") != encoder(folder, add_prefix_space=True).encode("a")
