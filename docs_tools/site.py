"""Hooks of MkDocs: the navigation, links that leave docs/, and marks of figures.

The navigation follows from the folders of docs/, so that a new page needs no entry anywhere. A link
to a file outside docs/ (`../configs/eval_llada_niah.py`) leads to a copy of it below `source/` on
the site; in a checkout it leads to the file itself. Marks of figures and runnable blocks are taken
out. What Python-Markdown would read otherwise than GitHub does is a warning, which stops
`mkdocs build --strict`.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LOG = logging.getLogger("mkdocs.hooks.site")

#: Folder of docs/ -> its tab.
SECTIONS = {
    "tutorials": "Tutorials",
    "how_to": "How-to",
    "reference": "Reference",
    "explanation": "Explanation",
    "experiments": "Experiments",
}
#: Pages that come first in their folder, in this order; the others follow by name.
FIRST = ("index", "install", "first_run", "my_model", "my_data", "post_train", "cluster")
#: Pages of docs/ itself, and files of the checkout, that stand at the end.
LAST = {"Glossary": "glossary.md", "Troubleshooting": "troubleshooting.md"}
PROJECT = {"Changelog": "source/CHANGELOG.md", "Contributing": "source/CONTRIBUTING.md"}

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))")
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml"}
#: Copied as they are: browsers show them, and as code they would be long.
RAW = (".json", ".jsonl", ".csv", ".png")


def order_of(path: Path) -> tuple[int, str]:
    """Return where a page stands in its folder: appendices at its end."""
    if path.stem in FIRST:
        return FIRST.index(path.stem), path.stem
    return len(FIRST) + path.stem.startswith("appendix_"), path.stem


def list_pages(folder: Path) -> list[Any]:
    """Return the navigation below a folder of docs/."""
    pages: list[Any] = [
        path.relative_to(DOCS).as_posix() for path in sorted(folder.glob("*.md"), key=order_of)
    ]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if below := list_pages(inner):
            pages.append({inner.name.replace("_", " ").capitalize(): below})
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation."""
    nav: list[Any] = [{"Home": "index.md"}]
    for folder, title in SECTIONS.items():
        if (DOCS / folder).is_dir() and (pages := list_pages(DOCS / folder)):
            nav.append({title: pages})
    placed = {"index.md", *LAST.values()}
    others = [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in placed]
    for folder in sorted(path for path in DOCS.iterdir() if path.is_dir()):
        if folder.name not in (*SECTIONS, "records") and (pages := list_pages(folder)):
            others += pages
    if others:
        nav.append({"More": others})
    nav += [{title: name} for title, name in LAST.items() if (DOCS / name).exists()]
    nav.append({"Project": [{title: name} for title, name in PROJECT.items()]})
    config.nav = nav
    return config


def outside_code(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a page, and whether each is a fenced block of code."""
    position = 0
    for match in FENCE.finditer(text):
        yield text[position : match.start()], False
        yield match[0], True
        position = match.end()
    yield text[position:], False


def find_links(text: str) -> list[str]:
    """Return the targets of a page's links, without those in code."""
    parts = [part for part, code in outside_code(text) if not code]
    return [match[2] for part in parts for match in LINK.finditer(re.sub(r"`[^`\n]+`", "", part))]


def outside_target(origin: Path, link: str) -> Path | None:
    """Return the file of the checkout, outside docs/, that a link of a page leads to."""
    name = link.partition("#")[0]
    if not name or "://" in link or link.startswith(("mailto:", "/")):
        return None
    target = Path(os.path.normpath(origin.parent / name))
    inside = target.is_relative_to(ROOT) and target.exists()
    return target if inside and not target.is_relative_to(DOCS) else None


def site_name(target: Path) -> str:
    """Return the name, below docs/, of the site's page or file of something in the checkout."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    name = f"source/{target.relative_to(ROOT).as_posix()}"
    if target.is_dir():
        return f"{name}/index.md"
    return name if target.suffix in (".md", *RAW) else f"{name}.md"


def show(target: Path) -> str:
    """Return the page that shows a file or a folder of the checkout."""
    name = target.relative_to(ROOT).as_posix()
    head = f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n"
    if target.is_dir():
        inner = [p for p in sorted(target.iterdir()) if p.is_file() and p.name[0] not in "._"]
        return head + "".join(f"- [{p.name}]({p.name})\n" for p in inner)
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return f"---\nsearch: {{exclude: true}}\n---\n{text}"
    return f"{head}``````{LANGUAGES.get(target.suffix, 'text')}\n{text}\n``````\n"


def origin_of(file: File) -> Path:
    """Return the file or folder of the checkout that a page was made of."""
    name = file.src_uri
    if not name.startswith("source/"):
        return DOCS / name
    path = ROOT / name.removeprefix("source/")
    if path.exists():
        return path
    return path if path.name == "index.md" else path.with_suffix("")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in what pages link to outside docs/."""
    waiting = [ROOT / name.removeprefix("source/") for name in PROJECT.values()]
    seen = set(waiting)
    queue = [(origin_of(file), file.content_string) for file in files.documentation_pages()]

    def note(origin: Path, text: str) -> None:
        for link in find_links(text):
            target = outside_target(origin, link)
            if target is not None and target not in seen:
                seen.add(target)
                waiting.append(target)

    for origin, text in queue:
        note(origin, text)
    while waiting:
        target = waiting.pop()
        level = InclusionLevel.NOT_IN_NAV
        if target.is_file() and target.suffix in RAW:
            made = File.generated(config, site_name(target), abs_src_path=str(target))
        else:
            text = show(target)
            made = File.generated(config, site_name(target), content=text, inclusion=level)
            if target.suffix == ".md" or target.is_dir():
                note(target / "index.md" if target.is_dir() else target, text)
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to the site's own pages, and take out marks."""
    origin, here = origin_of(page.file), posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        link = match[2]
        target = outside_target(origin, link)
        if target is None and page.file.src_uri.startswith("source/") and "://" not in link:
            name = link.partition("#")[0]
            target = Path(os.path.normpath(origin.parent / name)) if name else None
        if target is None or not target.exists():
            return match[0]
        part = link.partition("#")[2] if site_name(target).endswith(".md") else ""
        name = posixpath.relpath(site_name(target), here or ".")
        return f"{match[1]}{name}{'#' + part if part else ''}{match[3]}"

    shows_code = page.file.src_uri.startswith("source/") and origin.suffix != ".md"
    if not shows_code:
        warn_of_lists(markdown, page.file.src_uri)
    parts = []
    for part, code in outside_code(markdown):
        if not code:
            part = LINK.sub(lead, part)
            part = re.sub(r"^[ \t]*<!--.*?-->[ \t]*$", "", part, flags=re.MULTILINE)
            part = COMMENT.sub("", part)
            # A bar in a table's code is escaped for GitHub; Python-Markdown would show the escape.
            part = re.sub(r"^\|.*$", lambda row: unescape_bars(row[0]), part, flags=re.MULTILINE)
        parts.append(part)
    return "".join(parts)


def unescape_bars(row: str) -> str:
    """Return a row of a table with the bars of its code unescaped."""
    return re.sub(r"`[^`]+`", lambda code: code[0].replace("\\|", "|"), row)


def warn_of_lists(markdown: str, name: str) -> None:
    """Warn of a list right below a paragraph: GitHub shows a list, Python-Markdown text."""
    for part, code in outside_code(markdown):
        lines = [] if code else part.splitlines()
        for above, line in zip(lines, lines[1:], strict=False):
            item = re.match(r"[-*+] |\d+\. ", line)
            in_list = re.match(r"\s*(?:[-*+] |\d+\. )|\s{2,}\S|\s*$|#|<!--", above)
            if item and not in_list:
                LOG.warning("%s: a list needs an empty line above it: %s", name, line[:60])


def on_post_build(config: MkDocsConfig) -> None:
    """Write the search index as a script, too, for which a page that is opened as a file asks.

    Browsers start no worker there, so that the site searches only where a server gives it out.
    """
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")
