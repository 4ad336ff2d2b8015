"""Reads OpenCompass's command line and the config that it names, before OpenCompass is imported.

A word or a name that is wrong then costs a second, where the imports alone take eight.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from opencompass_llada.faults import is_deliberate
from opencompass_llada.options import nearest

#: How configs are run, for the help of OpenCompass's own options.
EXAMPLES = """\
python run.py configs/eval_llada_niah.py -w outputs/first
python run.py configs/eval_llada_niah.py -w outputs/first -r    # go on with it"""


class ExampleFormatter(argparse.HelpFormatter):
    """Leaves the lines of an epilog that is an example as they are, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example"):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


class NamingParser(argparse.ArgumentParser):
    """Names the option that an unknown one is nearest to, of the subcommand that was given."""

    def __init__(self, *arguments: Any, example: str = "", **options: Any) -> None:
        """Take a command that shows how it is used, besides argparse's own options."""
        if example:
            lines = "\n".join(f"  {line}" for line in example.splitlines())
            options["epilog"] = f"example{'s' if chr(10) in example else ''}:\n{lines}"
            options["formatter_class"] = ExampleFormatter
        super().__init__(*arguments, **options)
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Keep the words, for `error`."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._words, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with status 2."""
        if (chosen := self._chosen_command()) is not None:
            chosen.error(message)
        known = [name for name in self._option_string_actions if name.startswith("--")]
        options = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        unknown = [own for own in options if not any(name.startswith(own) for name in known)]
        guesses = [(own, difflib.get_close_matches(own, known, n=1)) for own in unknown]
        hints = [f" Did you mean {near[0]!r} by {own!r}?" for own, near in guesses if near]
        super().error(message + ("." if hints else "") + "".join(hints))

    def _chosen_command(self) -> NamingParser | None:
        """Return the parser of the subcommand that the words name, which has seen them."""
        for action in self._subparsers._group_actions if self._subparsers else ():
            choices: Mapping[str, NamingParser] = action.choices or {}  # type: ignore[assignment]
            named = [choices[word] for word in self._words if word in choices]
            if named and named[0]._words:
                return named[0]
        return None


def find_parser() -> Callable[[], argparse.Namespace]:
    """Return OpenCompass's own ``parse_args``, without importing what else its file imports."""
    import opencompass
    from mmengine.config import DictAction

    file = Path(opencompass.__file__).parent / "cli" / "main.py"
    functions: list[ast.stmt] = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("parse_")
    ]
    parser = partial(NamingParser, example=EXAMPLES)
    stand_in = SimpleNamespace(**{**vars(argparse), "ArgumentParser": parser})
    names: dict[str, Any] = {"argparse": stand_in, "os": os, "osp": os.path}
    names["DictAction"] = DictAction
    exec(compile(ast.Module(functions, []), str(file), "exec"), names)
    return names["parse_args"]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line, and check the words that OpenCompass itself takes without a look."""
    try:
        arguments = find_parser()()
        arguments.config = (arguments.config or "").strip() or None
        if arguments.num_gpus is not None:
            raise ValueError("--num-gpus is an old name; use --hf-num-gpus, or run_cfg in a config")
        for name in ("max_num_workers", "max_workers_per_gpu"):
            if (number := getattr(arguments, name)) < 1:
                option = f"--{name.replace('_', '-')} {number}"
                raise ValueError(f"{option} must be at least 1; use 1 or more")
        if work_dir := arguments.work_dir:
            folder = Path(work_dir).absolute()
            while not (folder.exists() or folder.is_symlink()):
                folder = folder.parent
            if not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise ValueError(
                    f"--work-dir {work_dir} cannot be made: {folder} may not be written; "
                    "give a folder that may"
                )
        return arguments
    except (AssertionError, ValueError) as error:  # OpenCompass refuses words by assertions
        raise SystemExit(f"Nothing was run. {error}") from error


def find_config(path: str) -> Path:
    """Return a config's file, if there is one."""
    file = Path(path).expanduser()
    if not file.exists():
        guess = nearest(file.name, [found.name for found in file.parent.glob("*.py")])
        hint = f" Did you mean {str(file.with_name(guess))!r}?" if guess else ""
        raise ValueError(
            f"There is no config file {path!r}.{hint} Give the path of one, from the folder that "
            "you are in."
        )
    if not file.is_file():
        raise ValueError(f"The config {path!r} is a folder; give a file in it, such as eval_*.py.")
    return file


def read_config(path: str, read: Callable[[], Any] | None = None) -> Mapping[str, Any]:
    """Read a config file as OpenCompass does, by ``read`` if given; a fault names its line."""
    from mmengine.config import Config

    file = find_config(path)
    try:
        return read() if read else Config.fromfile(path, format_python_code=False)
    except (Exception, SystemExit) as error:  # whatever a config runs into is its fault
        if isinstance(error, ValueError) and is_deliberate(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if Path(frame.filename).name == file.name]
        line = getattr(error, "lineno", None) or (own[-1] if own else None)
        place = f", line {line}" if line else ""
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ValueError(
            f"The config {path}{place} cannot be read ({what}). Correct it; it must be Python "
            "that defines models and datasets."
        ) from error
