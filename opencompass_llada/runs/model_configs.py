"""Makes the model configs of the table of models, for every benchmark and every RoPE scaling."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opencompass_llada import assets
from opencompass_llada.options import nearest, reject_unknown
from opencompass_llada.rope.methods import parse_rope_scaling
from opencompass_llada.runs.checkpoints import (
    PEFT,
    full_path,
    hint_folder,
    is_path,
    label_paths,
    plain_name,
    read_facts,
    split_adapter,
    stated_length,
)
from opencompass_llada.runs.model_table import KNOWN_MODELS, KnownModel
from opencompass_llada.runs.reductions import Reductions
from opencompass_llada.runs.settings import read_length

logger = logging.getLogger(__name__)

Config = dict[str, Any]


class ModelTable:
    """The models that can be had, and the checkpoints that a run adds to them by their paths."""

    def __init__(self, known: Mapping[str, KnownModel] = KNOWN_MODELS) -> None:
        """Keep the models whose checkpoint is no asset or is shipped."""
        self.models = {
            name: facts
            for name, facts in known.items()
            if not facts.path.startswith(assets.PREFIX)
            or (assets.FOLDER / facts.path.removeprefix(assets.PREFIX)).exists()
        }
        #: Names of what a run has added, by the name and path that it gave.
        self._added: dict[tuple[str, str], str] = {}

    def __getitem__(self, name: str) -> KnownModel:
        """Return what is known of a model that `resolve` returned."""
        return self.models[name]

    def list_shipped(self) -> list[str]:
        """List the models whose checkpoints are in the package."""
        return [n for n, facts in self.models.items() if facts.path.startswith(assets.PREFIX)]

    def resolve(self, specs: Iterable[str]) -> list[str]:
        """Return the names of models: those of the table, and new ones for checkpoints by path.

        ``NAME=PATH``: what is known of NAME is taken to hold for the checkpoint at PATH, but for
        the trained length that its config.json states. ``PATH`` and
        ``ALIAS=PATH``: its config.json says what it is (`checkpoints.read_facts`). The names are
        NAME-FOLDER, FOLDER and ALIAS; folders of one name are told apart by those around them.
        ``PATH+peft=ADAPTER``, and ``NAME+peft=ADAPTER`` for a listed one, is an adapter over it.

        Raises:
            ValueError: For a name that is not in the table, the nearest is named; for no path; for
                a name of two checkpoints.
        """
        parsed = [self._parse(spec) for spec in specs]
        given = {spec: None for spec in parsed if spec[1] and spec not in self._added}
        prefixes = [f"{name}-" if self._is_kind(name) else "" for name, _ in given]
        by_name = {
            plain_name(name).replace("_", "-"): own.weights for name, own in self.models.items()
        }
        labels = label_paths([path for _, path in given], prefixes, by_name)
        for spec, label in zip(given, labels, strict=True):
            self._added[spec] = self._add(*spec, label)
        return list(dict.fromkeys(self._added.get(spec, spec[0]) for spec in parsed))

    def _is_kind(self, name: str) -> bool:
        """Tell a name of the table, which says what a checkpoint is like, from a run's own."""
        return name in self.models and name not in self._added.values()

    def _parse(self, spec: str) -> tuple[str, str]:
        """Return name and path of a model, each '' where it is not given."""
        whole, mark, adapter = (part.strip() for part in spec.partition(PEFT))
        name, equals, path = (part.strip() for part in whole.partition("="))
        if is_path(name) and name not in self.models:  # a folder's name may hold a =
            name, equals, path = "", "=", whole
        elif mark and not equals:
            listed = self.models.get(name)
            name, equals, path = ("", "=", name) if listed is None else (name, "=", listed.path)
        if equals and not path:
            raise ValueError(f"model {name!r} names no path; write {name}=FOLDER or {name}.")
        if not equals or whole.startswith("="):  # which names nothing
            reject_unknown("model", [name], self.models, hint_folder(name, self.models))
            return name, ""
        path = full_path(f"{path}{mark}{adapter}")
        if mark and not name:  # over a listed one, which says what it is like
            base, _ = split_adapter(path)
            name = next((own for own, facts in KNOWN_MODELS.items() if facts.path == base), "")
        known = [own for own, facts in self.models.items() if facts.weights == path]
        return (known[0], "") if known and not name else (name, path)

    def _add(self, name: str, path: str, label: str) -> str:
        """Enter a checkpoint into the table; return its name."""
        base, adapter = split_adapter(path)
        if not self._is_kind(name):
            try:
                facts = read_facts(base, title=(title := name or label))
            except ValueError as error:
                guess = name and nearest(name, self.models)
                hint = f" Did you mean {guess!r} for {name!r}?" if guess else ""
                raise ValueError(f"model {name or path!r}: {error}{hint}") from error
            name = plain_name(name or label)
            facts = replace(facts, adapter=adapter)
            if adapter is not None:
                facts = replace(facts, trained_length=stated_length(facts) or facts.trained_length)
        else:
            like = self.models[name]
            title = f"{like.title} ({plain_name(label)})"
            facts = replace(like, path=base, adapter=adapter, title=title)
            facts = replace(facts, trained_length=stated_length(facts) or like.trained_length)
            name = f"{name}-{plain_name(label)}"
        if not name:
            raise ValueError(
                f"model {title!r}: a name needs a letter of a to z or a digit, which names of "
                f"files are made of; give the checkpoint another, ALIAS={path}."
            )
        abbr = name.replace("_", "-")
        for known, own in self.models.items():
            if known.replace("_", "-") == abbr and own.weights != path:
                raise ValueError(
                    f"model {name!r} is the name of two checkpoints, {own.weights!r} and "
                    f"{path!r}; give one of them another alias, ALIAS=PATH."
                )
        self.models[name] = facts
        return name

    def list_configs(
        self,
        models: Iterable[str],
        scaling: Sequence[str] = ("none",),
        *,
        num_gpus: int = 0,
        batch_size: int | None = None,
        num_steps: int | None = None,
        block_length: int | None = None,
        keep_steps: bool = True,
        answer_length: int | None = None,
        max_out_len: int | None = None,
        dtype: str | None = None,
        benchmark: str = "niah",
        rows: Sequence[Mapping[str, Any]] | None = None,
        chat: bool = False,
        reductions: Reductions | None = None,
    ) -> list[Config]:
        """Make the config of every model with every scaling.

        ``models`` are as `resolve` reads them and ``scaling`` as `parse_scaling` does; ``all`` is
        each model's own, ``METHOD:all`` those of one method. ``benchmark``, a key of the facts'
        ``generation``, says how they generate. What is given of batch size, steps, block length,
        new tokens (``max_out_len``) and precision takes the place of a model's own; steps and
        blocks only where it has any. Without ``keep_steps`` the steps are a benchmark's default,
        which need not fit a checkpoint's own blocks: a block-causal model then takes one token a
        step. So does one whose steps are for answers of another length than ``answer_length``,
        the tokens that the data sets ask for. A model takes a GPU if there is one. ``chat`` puts
        the chat template around prompts of the models that are tuned to one. ``reductions`` are
        what passes give up, each for the models that have a use for it.

        ``rows`` is what to make instead of every pair, as far as it is about the models: mappings
        of ``model``, ``scaling`` and, where several are compared, ``num_steps``, which are taken
        whatever else is asked for, as the abbr says them; any other key is put into the model's
        config.

        Raises:
            ValueError: For an unknown model or scaling, or those that `pair` refuses.
        """
        names = self.resolve(models)
        rows = self.pair(names, scaling) if rows is None else rows
        configs = []
        for row in rows:
            own = dict(row)
            [name] = self.resolve([own.pop("model")])
            text, steps = own.pop("scaling"), own.pop("num_steps", None)
            if name not in names:
                continue
            facts = self.models[name]
            rope = parse_scaling(text, facts.trained_length)
            if fault := _find_misfit(name, facts, rope):
                raise ValueError(fault)
            config = {
                "type": "opencompass_llada.wrapper.LLaDACausalLM",
                "abbr": _make_abbr(name, rope, steps),
                "path": facts.path,
                "rope_scaling": rope,
                "max_out_len": facts.generation[benchmark]["max_out_len"],
                "batch_size": facts.batch_size,
                "run_cfg": {"num_gpus": min(1, num_gpus)},
                **({"dtype": facts.dtype} if facts.dtype else {}),
                **own,
            }
            if facts.adapter is not None:
                config["peft_path"] = facts.adapter
            if facts.mask_token_id is not None:
                config["mask_token_id"] = facts.mask_token_id
            if chat and facts.chat:
                config["chat"] = True
            given = {"batch_size": batch_size, "dtype": dtype, "max_out_len": max_out_len}
            config.update({key: value for key, value in given.items() if value})
            if not facts.states_length:
                config["rope_scaling"] = {**rope, "trained_length": facts.trained_length}
            asked = {"num_steps": steps or num_steps, "block_length": block_length}
            sampler: dict[str, Any] = {
                k: asked[k] or v for k, v in facts.generation[benchmark].items() if k in asked
            }
            own_lengths = (None, facts.generation[benchmark]["max_out_len"])
            is_kept = steps or (keep_steps and answer_length in own_lengths)
            if sampler and facts.block_length is not None and not is_kept:
                sampler["num_steps"] = None
            if sampler:  # without steps there is none
                config["sampler"] = {**facts.sampler, **sampler}
            configs.append(config if reductions is None else reductions.apply(config, facts))
        return configs

    def pair(self, models: Iterable[str], scaling: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row for each model with each scaling that fits it; the log names the others.

        Raises:
            ValueError: For a scaling that fits none of the models, or a model that none fits.
        """
        rows: list[dict[str, Any]] = []
        misfits: list[tuple[str, str, str]] = []
        for name in models:
            for text in _own_scalings(scaling, self.models[name]):
                rope = parse_scaling(text, self.models[name].trained_length)
                if fault := _find_misfit(name, self.models[name], rope):
                    misfits.append((name, text, fault))
                else:
                    rows.append({"model": name, "scaling": text})
        for name, text, fault in misfits:
            if name not in {row["model"] for row in rows}:
                raise ValueError(fault)
            if text not in {row["scaling"] for row in rows}:
                raise ValueError(fault)
            logger.warning("%s is not run with scaling %s: %s", name, text, fault)
        return rows

    def facts_of(self, config: Config) -> KnownModel:
        """Return what is known of the model of a config that `list_configs` made."""
        name = config["abbr"].partition("_")[0]
        return next(own for key, own in self.models.items() if key.replace("_", "-") == name)

    def describe(self, configs: Iterable[Config]) -> list[dict[str, Any]]:
        """List what summarizers say about models: title and trained length of each abbr.

        A title names the steps that an abbr says are taken instead of the model's own: such a row
        is another line of the leaderboard, beside which no figure of the usual steps stands.
        """
        described = []
        for config in configs:
            abbr, facts = config["abbr"], self.facts_of(config)
            steps = abbr.partition("_steps")[2].partition("_")[0]
            title = facts.title + (f", steps {steps}" if steps else "")
            described.append({"abbr": abbr, "title": title, "trained_length": stated_length(facts)})
        return described


def parse_scaling(text: str, trained_length: int) -> dict[str, Any]:
    """Read ``METHOD`` or ``METHOD:option=value[:option=value]`` as rope_scaling's keywords.

    Examples: ``none``, ``ntk`` (for four times the trained length), ``ntk:target_length=16384``,
    ``ntk:theta_multiplier=14`` (LongLLaDA's lambda). Lengths may be given as ``16k``.
    """
    method, *settings = text.strip().split(":")
    scaling: dict[str, Any] = {"type": method}
    for setting in settings:
        name, equals, value = setting.partition("=")
        length = read_length(value) if name.endswith("_length") else None
        try:
            number = float(value if length is None else length)
        except ValueError:
            number = math.nan
        if not equals or not math.isfinite(number):
            raise ValueError(
                f"scaling {text!r}: {setting!r} must be option=number, as in "
                "ntk:target_length=16k or ntk:theta_multiplier=14."
            )
        scaling[name] = int(number) if number == int(number) else number
    if method not in ("none", "") and len(scaling) == 1:
        scaling["target_length"] = 4 * trained_length
    parse_rope_scaling(scaling)
    return scaling


def _own_scalings(texts: Iterable[str], facts: KnownModel) -> list[str]:
    """Return scalings with ``all`` and ``METHOD:all`` replaced by what the table lists."""
    found: list[str] = []
    for text in texts:
        method, _, option = text.strip().partition(":")
        if method == "all":
            found += ["none", *facts.scalings]
        elif option == "all":
            found += [own for own in facts.scalings if own.partition(":")[0] == method]
        else:
            found.append(text)
    return list(dict.fromkeys(found))


def _find_misfit(name: str, facts: KnownModel, scaling: Config) -> str:
    """Say why a model has no use for a scaling; '' where it has."""
    if scaling["type"] != "none" and not facts.takes_scaling:
        return (
            f"scaling {scaling['type']!r} is not for {name!r}: its layers have RoPE of two kinds, "
            "trained to its whole length. Use none."
        )
    one_sided = facts.is_autoregressive or facts.block_length is not None
    if one_sided and scaling["type"] == "diffusion_ntk":
        kind = "an autoregressive" if facts.is_autoregressive else "a block-causal"
        return (
            f"scaling 'diffusion_ntk' is not for {name!r}: it puts 2T in the place of T because a "
            f"bidirectional model sees relative positions from -(T-1) to T-1, and {kind} one sees "
            "those from 0 to T-1 only. Use ntk."
        )
    return ""


def _make_abbr(name: str, scaling: Config, steps: int | None) -> str:
    """Return a model's name with its scaling and, where several are compared, its steps."""
    method, *options = [
        value if key == "type" else f"{key}{value}" for key, value in scaling.items()
    ]
    suffix = "" if method == "none" else "_" + "-".join([method, *options])
    return name.replace("_", "-") + suffix + (f"_steps{steps}" if steps else "")
