"""Answers prompt sets with a checkpoint in batches, and scores the answers.

What the prompts are is `prompt_sets`'s business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from needle_grid import load_engine
from prompt_sets import Prompt, PromptSet

from opencompass_llada.benchmarks.ruler.prompts import MATCHES, TASKS
from opencompass_llada.engines import Engine, Generation, MaskedDiffusionEngine, SamplerSettings
from opencompass_llada.prompting.encode import PromptEncoder

#: As tiny-llada's figures are made: blocks of 16, four tokens a step.
BLOCK, TOKENS_A_PASS = 16, 4


class Answerer:
    """A checkpoint that answers prompts in batches."""

    def __init__(self, engine: Engine, tokenizer: Any, batch_tokens: int) -> None:
        """Answer with an engine.

        Args:
            engine: The checkpoint, loaded.
            tokenizer: Its tokenizer.
            batch_tokens: Most tokens of a batch, prompts and answers; one prompt always fits.
        """
        self.engine, self.batch_tokens = engine, batch_tokens
        mask = getattr(getattr(engine, "special_tokens", None), "mask_token_id", None)
        self.encoder = PromptEncoder(tokenizer, mask)
        self._engines: dict[int, Engine] = {}

    @classmethod
    def load(
        cls, folder: str, batch_tokens: int, scaling: dict[str, Any] | None = None
    ) -> Answerer:
        """Load a masked diffusion checkpoint, with a RoPE scaling on top of its own or none."""
        engine, tokenizer = load_engine(folder, BLOCK, TOKENS_A_PASS, scaling)
        if not isinstance(engine, MaskedDiffusionEngine):
            raise ValueError(
                f"{folder} is no masked diffusion model, whose sampler the study measures with; "
                "give a checkpoint of LLaDA's format."
            )
        return cls(engine, tokenizer, batch_tokens)

    def options_for(self, new_tokens: int) -> dict[str, Any]:
        """Return the sampler's options for one length of answers: the steps go with it."""
        return {
            "block_length": BLOCK,
            "num_steps": -(-new_tokens // BLOCK) * BLOCK // TOKENS_A_PASS,
        }

    def engine_for(self, new_tokens: int) -> Engine:
        """Return the engine for one length of answers."""
        engine = self.engine
        if not isinstance(engine, MaskedDiffusionEngine):
            return engine
        if new_tokens not in self._engines:
            settings = SamplerSettings(self.options_for(new_tokens))
            self._engines[new_tokens] = MaskedDiffusionEngine(
                engine.model,
                settings.for_pattern(engine.model.attention_pattern),
                engine.special_tokens,
            )
        return self._engines[new_tokens]

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation]:
        """Return what is generated after each prompt, in order."""
        found: dict[int, Generation] = {}
        for places in token_batches(prompts, self.batch_tokens):
            new_tokens = prompts[places[0]].new_tokens
            ids = [prompts[place].token_ids.tolist() for place in places]
            made = self.engine_for(new_tokens).generate(ids, max_new_tokens=new_tokens)
            found |= dict(zip(places, made, strict=True))
        return [found[place] for place in range(len(prompts))]

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the text generated after each prompt, in order."""
        return [self.encoder.decode(made.token_ids) for made in self.generate(prompts)]


def token_batches(prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Return places of prompts that go together: one answer length, rows x longest <= most."""
    sizes = [(p.new_tokens, len(p.token_ids) + p.new_tokens) for p in prompts]
    batches: list[list[int]] = []
    for place in sorted(range(len(prompts)), key=lambda place: sizes[place]):
        last = batches[-1] if batches else None
        # Sorted by length: the newest is the longest.
        alike = last is not None and sizes[last[0]][0] == sizes[place][0]
        if last is not None and alike and (len(last) + 1) * sizes[place][1] <= most:
            last.append(place)
        else:
            batches.append([place])
    return batches


def score_set(model: Answerer, made: PromptSet, kind: str) -> dict[str, float | None]:
    """Answer a set and score it; see `score_answers`."""
    return score_answers(made, model.answer(made.prompts), kind)


def score_answers(made: PromptSet, answers: Sequence[str], kind: str) -> dict[str, float | None]:
    """Return percent by depth or task; None for a task that does not fit the length."""
    scores: dict[str, list[float]] = defaultdict(list)
    for prompt, answer in zip(made.prompts, answers, strict=True):
        if kind == "needle":
            found = float(prompt.answers[0] in answer)
        else:
            found = MATCHES[TASKS[prompt.group].match](answer, prompt.answers)
        scores[prompt.group].append(found)
    figures: dict[str, float | None] = {
        group: 100 * sum(found) / len(found) for group, found in scores.items()
    }
    return figures | dict.fromkeys(made.unfit)
