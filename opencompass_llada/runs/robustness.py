"""Makes variants of a run's cells: other wordings, answer lengths, seeds and decodings.

Each variant is a group of models and data sets of its own; its data sets say in ``setting`` what is
other than in the run itself, and `report.robustness` compares the order of models under them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.sampling import STRATEGIES
from opencompass_llada.wrapper import LLaDACausalLM

logger = logging.getLogger(__name__)

Config = dict[str, Any]
Group = dict[str, list[Config]]
#: What a kind needs of a run, said where it changes no model.
_NEEDS = {
    "wordings": "no data set has other wordings. Leave it out.",
    "generation_lengths": "no data set has room for longer answers. Leave it out, or give longer "
    "lengths (LLADA_LENGTHS).",
    "decodings": "no model of this run has a sampler that they fit, as autoregressive models have "
    "none. Leave it out, or add a diffusion model (LLADA_MODELS).",
    "seeds": "no model of this run draws random numbers. Leave it out, or, where a diffusion model "
    "runs, ask for both (LLADA_ROBUSTNESS=decodings,seeds): some decodings are random.",
}
LENGTH_FACTORS = (2, 4)
SEEDS = (1, 2)
TEMPERATURE = 0.5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run the same cells otherwise."""

    name: str
    """What tables call it, e.g. ``decodings: random remasking``."""
    vary_model: Callable[[Config], Config | None] = lambda model: model
    """Returns a model's config under it; None for one that it does not change."""
    vary_cell: Callable[[Config], Config] = lambda cell: cell

    @property
    def suffix(self) -> str:
        """What the names of its data sets end with."""
        return "_" + self.name.partition(": ")[2].replace(", ", "-").replace(" ", "-")


def add_variants(
    groups: Sequence[Group],
    kinds: Sequence[str],
    num_wordings: int = 0,
    check_data: Callable[[Sequence[Config]], None] = lambda cells: None,
) -> list[Group]:
    """Return groups of models and data sets with a variant of each under every setting.

    A setting that does not fit a model, such as a sampler's for an autoregressive one, leaves it
    out, and so it does a data set that `check_data` refuses under it, such as one whose length has
    no room for a longer answer; the log says so.

    Raises:
        ValueError: If a kind changes no model at all.
    """
    found = list(groups)
    for kind in kinds:
        settings = list(_list_settings(kind, kinds, num_wordings))
        made = [
            variant
            for setting in settings
            for varied in _vary(groups, setting)
            for variant in _keep_fitting(varied, setting, check_data)
        ]
        if not made:
            raise ValueError(f"robustness={kind!r} changes nothing: {_NEEDS[kind]}")
        found += made
    return found


def _list_settings(kind: str, kinds: Sequence[str], num_wordings: int) -> Iterator[Setting]:
    if kind == "wordings":
        for number in range(num_wordings):
            yield Setting(
                name=f"{kind}: wording {number}",
                vary_cell=lambda cell, number=number: _reword(cell, number),  # type: ignore[misc]
            )
    elif kind == "generation_lengths":
        for factor in LENGTH_FACTORS:
            yield Setting(
                name=f"{kind}: {factor} times the tokens",
                vary_model=lambda model, factor=factor: _multiply_steps(model, factor),  # type: ignore[misc]
                vary_cell=lambda cell, factor=factor: _multiply_length(cell, factor),  # type: ignore[misc]
            )
    elif kind == "decodings":
        for name, change in _DECODINGS.items():
            yield Setting(name=f"{kind}: {name}", vary_model=change)
    else:
        for seed in SEEDS:
            yield Setting(
                name=f"{kind}: seed {seed}",
                vary_model=lambda model, seed=seed: _reseed(model, seed),  # type: ignore[misc]
            )
            for name, change in _DECODINGS.items() if "decodings" in kinds else ():
                yield Setting(
                    name=f"{kind}: {name}, seed {seed}",
                    vary_model=lambda model, change=change, seed=seed: _reseed(  # type: ignore[misc]
                        change(model), seed
                    ),
                )


def _vary(groups: Sequence[Group], setting: Setting) -> Iterator[Group]:
    """Yield the groups that a setting changes, with what it changes of them."""
    for group in groups:
        cells = [
            {
                **setting.vary_cell(cell),
                "abbr": cell["abbr"] + setting.suffix,
                "setting": setting.name,
            }
            for cell in group["datasets"]
        ]
        is_other = any(setting.vary_cell(cell) != cell for cell in group["datasets"])
        lengths = {cell["infer_cfg"]["inferencer"].get("max_out_len") for cell in cells}
        models = []
        for model in group["models"]:
            varied = setting.vary_model(model)
            is_same = varied == model and not is_other
            if varied is not None and not is_same and _fits(varied, lengths, setting):
                models.append(varied)
        if models:
            yield {"models": models, "datasets": cells}


def _keep_fitting(
    group: Group, setting: Setting, check_data: Callable[[Sequence[Config]], None]
) -> Iterator[Group]:
    """Yield a group with the data sets that can be made, if any."""
    cells, faults = group["datasets"], []
    try:
        check_data(cells)
    except ValueError:
        for cell in group["datasets"]:
            try:
                check_data([cell])
            except ValueError as error:
                cells = [other for other in cells if other is not cell]
                faults.append(f"{cell['abbr']}: {error}")
        if not faults:  # of all together, not of one
            raise
        logger.warning(
            "%d of %d data sets are not run with %s: %s",
            *(len(faults), len(group["datasets"]), setting.name, faults[0]),
        )
    if cells:
        yield {**group, "datasets": cells}


def _fits(model: Config, lengths: set[int | None], setting: Setting) -> bool:
    """Tell whether a model can be run so, as far as its config and its config.json say."""
    try:
        options = LLaDACausalLM.check_arguments(**recorded.model_keywords(model))
        for length in lengths:
            options.settings.for_length(options.generation_length(length))
    except ValueError as error:
        logger.warning("%s is not run with %s: %s", model["abbr"], setting.name, error)
        return False
    return True


def _reword(cell: Config, number: int) -> Config:
    """Return a data set all of whose samples have one wording; published draws have the first."""
    is_drawn = cell.get("draws") == "independent"
    return {**cell, "wording": number} if is_drawn or number else cell


def _change_sampler(model: Config, **options: Any) -> Config | None:
    """Return a model with other options of its sampler; None without one, or if it has these."""
    sampler = model.get("sampler")
    if sampler is None or {**sampler, **options} == sampler:
        return None
    return {**model, "sampler": {**sampler, **options}}


def _halve_steps(model: Config) -> Config | None:
    steps = (model.get("sampler") or {}).get("num_steps")
    return _change_sampler(model, num_steps=steps // 2) if steps and steps > 1 else None


_DECODINGS: Mapping[str, Callable[[Config], Config | None]] = {
    "half the steps": _halve_steps,
    "random remasking": lambda model: _change_sampler(model, remasking="random"),
    f"temperature {TEMPERATURE:g}": lambda model: _change_sampler(model, temperature=TEMPERATURE),
}


def _multiply_steps(model: Config, factor: int) -> Config:
    """Return a model that takes as many tokens a step as before in longer answers."""
    steps = (model.get("sampler") or {}).get("num_steps")
    return (steps and _change_sampler(model, num_steps=factor * steps)) or model


def _multiply_length(cell: Config, factor: int) -> Config:
    """Return a data set that asks for longer answers, within the length that it had."""
    inferencer = cell["infer_cfg"]["inferencer"]
    length = factor * inferencer["max_out_len"]
    varied = {**cell, "infer_cfg": {
        **cell["infer_cfg"], "inferencer": {**inferencer, "max_out_len": length}
    }}  # fmt: skip
    for name in ("generation_reserve", "tokens_to_generate"):
        if cell.get(name):
            varied[name] = length
    return varied


def _reseed(model: Config | None, seed: int) -> Config | None:
    """Return a model with another seed; None for one whose sampler draws no random numbers."""
    sampler = (model or {}).get("sampler") or {}
    strategy = STRATEGIES.get(str(sampler.get("remasking")))
    draws = sampler.get("temperature") or (strategy is not None and strategy.score is None)
    return {**model, "seed": seed} if model and draws else None
