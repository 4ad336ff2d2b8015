"""A prompt template that puts a sample's prompt in as it is.

OpenCompass's own template replaces ``{column}`` for every column of the sample, one after the
other, also inside what it has just put in: a program with ``{idx}`` in it, as LongBench's code
tasks have, would reach the model with the sample's number in its place.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.utils.prompt import PromptList

from opencompass_llada.prompting.encode import VerbatimText


class LiteralPromptTemplate(PromptTemplate):
    """Use it in ``infer_cfg``: ``prompt_template=dict(type=LiteralPromptTemplate)``."""

    def __init__(self, column: str = "prompt", chat: bool = True) -> None:
        """Say where the prompt is and who it is for.

        Args:
            column: The data set's column with the whole prompt.
            chat: True: a user's turn, around which a model's chat template (its chat or
                meta_template) goes. False: plain text, which every model gets as it is.
        """
        super().__init__(template="{" + column + "}")
        self.column = column
        self.chat = chat

    def generate_item(
        self,
        entry: Mapping[str, Any],
        output_field: Hashable | None = None,
        output_field_replace_token: str | None = "",
        ice_field_replace_token: str | None = "",
    ) -> PromptList | str:
        """Return a sample's prompt.

        Args:
            entry: The sample.
            output_field: Not used: no answer stands in the prompt.
            output_field_replace_token: Not used.
            ice_field_replace_token: Not used: there are no examples in context.
        """
        text = str(entry[self.column])
        if not self.chat:
            return VerbatimText(text)
        return PromptList(
            [
                dict(section="round", pos="begin"),
                dict(role="HUMAN", prompt=text),
                dict(section="round", pos="end"),
            ]
        )
