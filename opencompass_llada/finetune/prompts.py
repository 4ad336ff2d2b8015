"""Tokenises prompts and answers as inference does, so that training sees what a model is asked.

A prompt is what the wrapper sends: with what the tokenizer puts before a text, or rendered by the
chat template. Its ids stand alone, and the answer's follow them: inference puts masks there, so no
token reaches over the border. An answer is text, whose special tokens mean nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from opencompass_llada.finetune.recipe import TextSource
from opencompass_llada.finetune.text import Document
from opencompass_llada.finetune.tokens import TrainingTokenizer
from opencompass_llada.prompting.chat import ChatOptions, ChatRenderer, Turn, read_turns
from opencompass_llada.prompting.encode import PromptEncoder, find_token_id


class SampleEncoder:
    """Encodes the prompts and answers of one source."""

    def __init__(self, source: TextSource, tokens: TrainingTokenizer) -> None:
        """Find the chat template and the token that ends an answer.

        Raises:
            ValueError: If there is no chat template, or it leaves out what the user says, or
                answer_end is no token.
        """
        self._tokens = tokens
        self._encoder = PromptEncoder(tokens.tokenizer, tokens.mask_token_id)
        self._renderer = None
        if source.chat is not None:
            options = ChatOptions(**dataclasses.asdict(source.chat))
            self._renderer = ChatRenderer(tokens.tokenizer, options)
        self._end: list[int] = []
        if source.answer_end is not None:
            found = find_token_id(tokens.tokenizer, source.answer_end)
            if found is None:
                raise ValueError(
                    f"text source: answer_end={source.answer_end!r} is no token of the tokenizer; "
                    "name one, as the chat template writes it, or leave it out for the end token "
                    "alone."
                )
            self._end = [found]

    def encode(self, documents: Sequence[Document]) -> tuple[list[list[int]], list[list[int]]]:
        """Return the ids of the prompts, and of the answers without their end token."""
        answers = self._tokens.encode_all([document.text for document in documents])
        prompts = [self._encode_prompt(document.prompt) for document in documents]
        return prompts, [[*ids, *self._end] for ids in answers]

    def _encode_prompt(self, prompt: str | list[Any]) -> list[int]:
        if self._renderer is None or prompt == "":  # around an empty prompt goes no template
            assert isinstance(prompt, str), "checked as it was read"
            return self._encoder.encode(prompt)
        turns = [Turn("user", prompt)] if isinstance(prompt, str) else read_turns(prompt, "ppl")
        return self._encoder.encode(self._renderer.render(turns, for_answer=True))


def describe_samples(source: TextSource, tokens: TrainingTokenizer) -> dict[str, Any]:
    """Return what the ids of a source's samples depend on beside its text and the tokenizer."""
    if source.prompt_field is None:
        return {}
    encoder = SampleEncoder(source, tokens)  # refuses what is wrong before anything is read
    template = None if encoder._renderer is None else encoder._renderer.template
    return {"as_inference": 1, "chat_template": template}
