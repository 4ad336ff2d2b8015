"""A tiny chat checkpoint in LLaDA-8B-Instruct's manner, for tests."""

from __future__ import annotations

from pathlib import Path

from tiny import tiny_tokenizer, write_tiny_checkpoint
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

BOS_TOKEN, HEADER, END_HEADER = "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>"
BOS_ID, HEADER_ID, END_HEADER_ID = 260, 261, 262
VOCAB_SIZE = 264

# The published form of LLaMA-3's and LLaDA's templates: BOS, headers, trimmed turns, EoT.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def chat_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return the byte tokenizer with a chat template; it adds BOS to texts by itself."""
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens([BOS_TOKEN, HEADER, END_HEADER])
    backend.post_processor = TemplateProcessing(
        single=f"{BOS_TOKEN} $A", special_tokens=[(BOS_TOKEN, BOS_ID)]
    )
    chat = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS_TOKEN,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        mask_token=tokenizer.mask_token,
        clean_up_tokenization_spaces=False,
    )
    chat.chat_template = template
    return chat


def write_chat_checkpoint(directory: Path, template: str | None = TEMPLATE) -> str:
    """Write a random checkpoint whose tokenizer has a chat template, and return its folder."""
    write_tiny_checkpoint(directory, vocab_size=VOCAB_SIZE, embedding_size=VOCAB_SIZE)
    chat_tokenizer(template).save_pretrained(directory)
    return str(directory)
