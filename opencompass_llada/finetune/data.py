"""The training data of a recipe: tokens, packed rows, retrieval rows, phase by phase.

Puts the parts together; the parts do the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from opencompass_llada.finetune.evaluation import context_windows
from opencompass_llada.finetune.packing import PackedText
from opencompass_llada.finetune.parallel import Ranks
from opencompass_llada.finetune.recipe import Phase, Recipe, TextSource
from opencompass_llada.finetune.retrieval import RetrievalRows
from opencompass_llada.finetune.rows import TrainingRows, row_loader
from opencompass_llada.finetune.start import TrainingTokenizer
from opencompass_llada.finetune.token_cache import TokenizedText, default_folder, tokenize_source
from opencompass_llada.finetune.windows import TokenWindows
from opencompass_llada.logs import get_logger

logger = get_logger(__name__)


class TrainingData:
    """Everything that rows are made from.

    Attributes:
        texts: Tokens of the recipe's text, one a source.
        retrieval: Maker of retrieval rows.
        held_out: Tokens of the evaluation's text; None for none.
    """

    def __init__(self, recipe: Recipe, tokens: TrainingTokenizer) -> None:
        """Tokenise (or find the tokens of) all text and pack it for every row length.

        Args:
            recipe: Sources and strategy.
            tokens: The tokenizer.

        Raises:
            ValueError: If a source is wrong or empty, a document too long, or the tokenizer lacks
                the end token that the strategy or retrieval rows need, or the evaluation's text is
                shorter than its lengths.
        """
        self._recipe, self._tokens = recipe, tokens
        self.texts = [self._tokenize(source) for source in recipe.text]
        if recipe.retrieval_share and tokens.end_token_id is None:
            raise ValueError(
                "retrieval_share: retrieval rows end in the end-of-document token, and the "
                "tokenizer has none (no eos_token). Set retrieval_share=0, or use a tokenizer with "
                "an eos_token."
            )
        self.windows = TokenWindows(self.texts, [source.weight for source in recipe.text])
        logger.info("Tokens of the text sources: %s", self.windows.num_tokens)
        end = -1 if tokens.end_token_id is None else tokens.end_token_id
        self.retrieval = RetrievalRows(
            self.windows, tokens.encode, tokens.decode, end, recipe.retrieval_styles
        )
        self._packed = self._pack(self.texts)
        held_out = recipe.evaluation.text
        self.held_out = None if held_out is None else self._tokenize(held_out)
        if self.held_out is not None:
            context_windows(self.held_out.tokens, recipe.evaluation.lengths, 1)

    def _tokenize(self, source: TextSource) -> TokenizedText:
        recipe, tokens = self._recipe, self._tokens
        if recipe.cache_dir is None:
            folder = default_folder()
        else:
            folder = None if recipe.cache_dir == "none" else Path(recipe.cache_dir).expanduser()
        return tokenize_source(
            source,
            tokens.encode_all,
            end_token_id=tokens.end_token_id,
            tokenizer_digest=tokens.digest,
            folder=folder,
            max_document_tokens=recipe.max_document_tokens,
        )

    def _pack(self, texts: list[TokenizedText]) -> dict[int, PackedText]:
        recipe = self._recipe
        packed: dict[int, PackedText] = {}
        if recipe.strategy == "windows":
            return packed
        for length in sorted({phase.sequence_length for phase in recipe.phases}):
            packed[length] = PackedText(
                texts,
                length,
                recipe.strategy,
                seed=recipe.seed,
                pad_token_id=self._tokens.end_token_id or 0,
                restart_positions=recipe.restart_positions,
            )
            logger.info("%s", packed[length].report.describe())
        return packed

    @property
    def packing(self) -> list[str]:
        """One line a row length on what is packed, padded and cut."""
        return [packed.report.describe() for packed in self._packed.values()]

    def phases(self, ranks: Ranks, first_step: int = 0) -> Iterator[tuple[Phase, DataLoader]]:
        """Yield the phases that are left, each with a loader of this rank's batches.

        Args:
            ranks: Which part of each step this rank gets.
            first_step: Steps already done.
        """
        recipe = self._recipe
        num_made: Counter[int] = Counter()  # rows by length
        steps_before = 0
        for phase in recipe.phases:
            rows = TrainingRows(
                recipe,
                phase,
                self.windows,
                self.retrieval,
                packed=self._packed.get(phase.sequence_length),
                first_row=num_made[phase.sequence_length],
                first_step=steps_before,
            )
            num_made[phase.sequence_length] += len(rows)
            done = min(max(0, first_step - steps_before), phase.num_steps)
            steps_before += phase.num_steps
            if done < phase.num_steps:
                yield (
                    phase,
                    row_loader(
                        rows,
                        phase,
                        num_workers=recipe.num_workers,
                        micro_rows=recipe.micro_rows,
                        first_step=done,
                        rank=ranks.data_rank,
                        num_ranks=ranks.num_data_ranks,
                    ),
                )
