"""OpenCompass's prompt structure as the turns of a conversation.

Takes the place of OpenCompass's template parsers where a config asks for the checkpoint's chat
template. Says who speaks; how that becomes text is `prompting.chat`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencompass.utils.prompt import PromptList

from opencompass_llada.prompting.chat import ChatRenderer, Turn
from opencompass_llada.prompting.encode import PromptText, VerbatimText

#: OpenCompass's roles, and those of messages as chat APIs take them -> the templates' roles.
_ROLES = {
    "SYSTEM": "system",
    "HUMAN": "user",
    "BOT": "assistant",
    **{role: role for role in ("system", "user", "assistant")},
}


class ChatTemplateParser:
    """Renders prompts by a chat template; the wrapper's ``template_parser`` if ``chat`` is set."""

    def __init__(self, renderer: ChatRenderer) -> None:
        """Keep the renderer.

        Args:
            renderer: Of the checkpoint's template.
        """
        self.renderer = renderer

    def parse_template(self, prompt_template: Any, mode: str) -> Any:
        """Render one prompt, or each of a batch.

        Args:
            prompt_template: A text, which is one turn of the user; OpenCompass's PromptList; a
                list of messages with role and content; or a batch of these.
            mode: ``gen``: the turn to be generated is opened and what the data set holds of it is
                left out. ``ppl``: the whole conversation, ending in its last turn's own words.

        Returns:
            A `PromptText`, or a list of them. A `VerbatimText` and an empty text stay what they
            are.

        Raises:
            ValueError: For an unknown role, or a conversation that the template does not take.
        """
        assert mode in ("gen", "ppl"), mode
        if isinstance(prompt_template, str):
            return self.render_text(prompt_template, mode)
        if isinstance(prompt_template, PromptList) or _is_conversation(prompt_template):
            return self._render_items(prompt_template, mode)
        return [self.parse_template(prompt, mode) for prompt in prompt_template]

    def render_text(self, text: str, mode: str = "gen") -> str:
        """Render a text as one turn of the user, unless it says that it is to stay as it is."""
        if not text or isinstance(text, PromptText | VerbatimText):
            return text
        return self.renderer.render([Turn("user", text)], for_answer=mode == "gen")

    def _render_items(self, items: Sequence[Any], mode: str) -> str:
        turns = read_turns(items, mode)
        return self.renderer.render(turns, for_answer=mode == "gen") if turns else ""


def read_turns(items: Sequence[Any], mode: str) -> list[Turn]:
    """Return the turns of a prompt.

    As OpenCompass's own chat wrapper does, empty turns are skipped and neighbours of one role are
    joined by a line break. Unlike there a system turn stays one (there it becomes the user's),
    and text outside of any turn is the user's (there it is dropped with a warning).

    Args:
        items: Of a PromptList: turns, texts, and the borders of its sections; or messages.
        mode: ``gen`` leaves out the answer, the assistant's turn that ends the round, and all
            that follows it.

    Raises:
        ValueError: For a role that is unknown and has no known fallback, or a turn of no text.
    """
    turns: list[Turn] = []
    asked: list[bool] = []  # whether the turn stands in the round that is asked, not before it
    section: str | None = "round"
    for item in items:
        if isinstance(item, Mapping) and "section" in item:
            section = item["section"] if item["pos"] == "begin" else None
        elif not isinstance(item, str) or item.strip():
            turns.append(_read_turn(item))
            asked.append(section == "round")
    if mode == "gen":
        turns = _without_answer(turns, asked)
    merged: list[Turn] = []
    for turn in turns:
        if not turn.content:
            continue
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, f"{merged[-1].content}\n{turn.content}")
        else:
            merged.append(turn)
    return merged


def _read_turn(item: Any) -> Turn:
    if isinstance(item, str):
        return Turn("user", item)
    role = _ROLES.get(item["role"], _ROLES.get(item.get("fallback_role")))
    if role is None:
        raise ValueError(
            f"The data set's prompt has a turn of role {item['role']!r}; a chat template knows "
            f"{', '.join(_ROLES)}. Change the role, or give it a fallback_role of these."
        )
    said = item.get("prompt", item.get("content"))
    if said is not None and not isinstance(said, str):
        raise ValueError(
            f"The data set's prompt has a turn of {type(said).__name__} where text is wanted: "
            f"{str(said)[:60]!r}. Only text is supported."
        )
    return Turn(role, said or "")


def _without_answer(turns: list[Turn], asked: Sequence[bool]) -> list[Turn]:
    """Cut before the answer: the assistant's turns that end the round that is asked."""
    first = len(turns)
    for index in reversed(range(len(turns))):
        if asked[index] and turns[index].role != "assistant":
            break
        if asked[index]:
            first = index
    return turns[:first]


def _is_conversation(prompt: Any) -> bool:
    return bool(prompt) and all(isinstance(item, Mapping) and "role" in item for item in prompt)
