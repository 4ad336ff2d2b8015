"""Writes, solves and scores graph walks: the nodes that an operation on a list of edges returns.

After OpenAI's GraphWalks (huggingface.co/datasets/openai/graphwalks, README.md): operations
(breadth-first search to a depth, parents), ``a -> b`` edges, ``Final Answer: [a, b]`` and the F1 of
the sets. As its correction of 2026-02-27 says, a search returns the nodes at exactly its depth. Its
own difference of prompt: nodes are words, not hexadecimal digits; the instruction is shorter, has
no worked examples, and the prompt of a base model ends in ``Final Answer:`` without the bracket,
before which a word would be other tokens than in the edges.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opencompass_llada.benchmarks.generated.task import Question, Vocabulary
from opencompass_llada.benchmarks.generated.words import NOUNS

Edge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """An operation: its kind and how many nodes it passes on the way to its answer."""

    widths: tuple[tuple[int, int], ...]
    """Fewest and most nodes at each depth of a search from 1 on, the last its answers; of parents
    one pair."""
    is_search: bool = True
    """Whether it is a search along the edges, or asks for parents."""
    num_back: int = 0
    """Edges that lead from a passed node back to one passed before: they change no answer."""

    @property
    def depth(self) -> int:
        """Edges from the node asked about to an answer."""
        return len(self.widths)


#: Level -> the operations that are asked, each as often as the others.
WALKS: dict[int, tuple[Walk, ...]] = {
    1: (Walk(widths=((1, 1),)), Walk(widths=((1, 1),), is_search=False)),
    2: (Walk(widths=((1, 1), (1, 1))), Walk(widths=((2, 3),), is_search=False)),
    3: (Walk(widths=((1, 2), (2, 4))), Walk(widths=((4, 6),), is_search=False)),
    4: (Walk(widths=((2, 2), (2, 3), (3, 8)), num_back=1),),
    5: (Walk(widths=((2, 2), (3, 3), (4, 4), (6, 12)), num_back=4),),
}
_LEVELS = {
    1: "one child or one parent",
    2: "two steps to one node, or two to three parents",
    3: "two steps to two to four nodes, or four to six parents",
    4: "three steps to three to eight nodes, with an edge back",
    5: "four steps to six to twelve nodes, with edges back",
}
#: Nodes of a graph for each of its edges that are on no walk.
_NODES_AN_EDGE = 0.6
#: A graph of more nodes has names of two words.
_MOST_SHORT_NAMES = 120
#: No search is complete in this last share of the edges.
_LAST_SHARE = 0.25
_WORDINGS: Mapping[str, tuple[str, str, str]] = {
    "en": (
        "You are given a graph as a list of directed edges. A breadth-first search (BFS) returns "
        "the nodes at exactly that depth. The parents of a node are the nodes with an edge to it."
        "\n\nThe graph has the following edges:\n",
        "\nOperation:\nPerform a BFS from node {node} with depth {depth}.\nFinal Answer:",
        "\nOperation:\nFind the parents of node {node}.\nFinal Answer:",
    ),
    "zh": (
        "下面用有向边的列表给出一个图。广度优先搜索返回恰好位于该深度的节点。"
        "一个节点的父节点是有边指向它的节点。\n\n图的边如下：\n",
        "\n操作：\n从节点 {node} 开始做深度为 {depth} 的广度优先搜索。\n最终答案：",
        "\n操作：\n找出节点 {node} 的父节点。\n最终答案：",
    ),
}
_EDGE = re.compile(r"^- ([a-z ]+) -> ([a-z ]+)$", re.MULTILINE)
_SEARCH = re.compile(
    r"Perform a BFS from node ([a-z ]+) with depth (\d+)\."
    r"|从节点 ([a-z ]+) 开始做深度为 (\d+) 的广度优先搜索"
)
_PARENTS = re.compile(r"Find the parents of node ([a-z ]+)\.|找出节点 ([a-z ]+) 的父节点")
_ANSWER = re.compile(r"Final Answer:|最终答案：", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GraphWalks:
    """The suite; see `generated.task.GeneratedTask`."""

    name: str = "graph_walks"
    levels: Mapping[int, str] = field(default_factory=lambda: _LEVELS)

    def generation_length(self, level: int) -> int:
        """Return tokens of any answer: three a node, of two words and a comma, and its end."""
        most = max(walk.widths[-1][1] for walk in WALKS[level])
        return 8 * -(-(3 * most + 2) // 8)

    def smallest(self, level: int) -> int:
        """Return the fewest edges beside the walk's own."""
        return 8

    def write(self, rng: random.Random, level: int, size: int, vocabulary: Vocabulary) -> Question:
        """Write a graph with ``size`` edges that are on no walk, and an operation on it."""
        walk = rng.choice(WALKS[level])
        layers_sizes = [1, *(rng.randint(*width) for width in walk.widths)]
        num_others = max(6, round(_NODES_AN_EDGE * size))
        names, num_names = _draw_names(rng, sum(layers_sizes) + num_others, vocabulary)
        layers = [[names.pop() for _ in range(count)] for count in layers_sizes]
        own = _link(rng, walk, layers)
        closed = {node for layer in layers[:-1] for node in layer}
        used = names + [node for layer in layers for node in layer]
        others = _draw_others(rng, used, size, closed, walk.is_search)
        edges = _spread(rng, walk, own, others)
        head, search, parents = _WORDINGS[vocabulary.language]
        form = search if walk.is_search else parents
        answers = layers[-1]
        most = walk.widths[-1][1]
        return Question(
            head=head,
            context="".join(f"- {source} -> {target}\n" for source, target in edges),
            question=form.format(node=layers[0][0], depth=walk.depth),
            answers=tuple(answers),
            # Of a guess of as many names as an answer may have: the F1 is linear in the overlap.
            chance=200 * most * len(answers) / ((num_names - 1) * (most + len(answers))),
        )

    def solve(self, prompt: str) -> str:
        """Search the edges; answers are in the order in which they are found."""
        edges: list[Edge] = _EDGE.findall(prompt)
        operations = [*_SEARCH.finditer(prompt), *_PARENTS.finditer(prompt)]
        if not operations:
            return ""
        parts = [part for part in operations[-1].groups() if part is not None]
        if len(parts) == 2:
            found = search(edges, parts[0], int(parts[1]))
        else:
            found = list(dict.fromkeys(source for source, target in edges if target == parts[0]))
        return " " + ", ".join(found) if found else ""

    def guess(self, rng: random.Random, level: int, question: str, vocabulary: Vocabulary) -> str:
        """Return as many names as an answer of the operation may have."""
        is_search = _SEARCH.search(question) is not None
        most = max(walk.widths[-1][1] for walk in WALKS[level] if walk.is_search == is_search)
        found = _SEARCH.search(question) or _PARENTS.search(question)
        node = next(part for part in found.groups() if part) if found else ""
        many = _MOST_SHORT_NAMES + 1 if " " in node else 1
        names = _draw_names(rng, most + 1 if many == 1 else many, vocabulary)[0]
        return " " + ", ".join([name for name in names if name != node][:most])

    def more_questions(self, rng: random.Random, question: Question, count: int) -> list[str]:
        """Return questions for the one child or the one parent of other nodes."""
        edges: list[Edge] = _EDGE.findall(question.context)
        language = next(name for name, own in _WORDINGS.items() if own[0] == question.head)
        asked = []
        for place, form in enumerate(_WORDINGS[language][1:]):
            ends = Counter(edge[place] for edge in edges)
            asked += [form.format(node=node, depth=1) for node, n in ends.items() if n == 1]
        asked = [text for text in asked if text != question.question]
        return rng.sample(asked, min(count, len(asked)))

    def score(self, prediction: str, answers: tuple[str, ...]) -> float:
        """Return the F1 of two sets, 0 to 100; two empty ones are equal, no overlap is 0.

        The published line of code gives 1 for no overlap, too, and its extraction leaves ``Final
        Answer: [`` on the first node; both contradict what it says it measures.
        """
        found, truth = read_nodes(prediction), set(answers)
        if not found and not truth:
            return 100.0
        overlap = len(found & truth)
        return 200 * overlap / (len(found) + len(truth))


def read_nodes(prediction: str) -> set[str]:
    """Return the nodes of an answer: of its last ``Final Answer:``, else of its first line.

    They are parted by commas, in brackets or not.
    """
    text = _ANSWER.split(prediction)[-1].strip()
    line = text.splitlines()[0] if text else ""
    if "[" in line:
        line = line.partition("[")[2].partition("]")[0]
    parts = re.split(r"[,，、]", line)
    return {name for part in parts if (name := part.strip(" .。]'\"`").lower())}


def search(edges: Iterable[Edge], start: str, depth: int) -> list[str]:
    """Return the nodes whose shortest way from a node has that many edges, as they are found."""
    targets: dict[str, list[str]] = {}
    for source, target in edges:
        targets.setdefault(source, []).append(target)
    layer, seen = [start], {start}
    for _ in range(depth):
        found = dict.fromkeys(node for source in layer for node in targets.get(source, ()))
        layer = [node for node in found if node not in seen]
        seen.update(layer)
    return layer


def _draw_names(rng: random.Random, count: int, vocabulary: Vocabulary) -> tuple[list[str], int]:
    """Return different names, and from how many they are drawn."""
    words = vocabulary.allowed(NOUNS)
    if count <= _MOST_SHORT_NAMES:
        return rng.sample(words, count), len(words)
    others = len(words) - 1
    pairs = [divmod(number, others) for number in rng.sample(range(len(words) * others), count)]
    names = [f"{words[first]} {words[last + (last >= first)]}" for first, last in pairs]
    return names, len(words) * others


def _link(rng: random.Random, walk: Walk, layers: Sequence[Sequence[str]]) -> list[Edge]:
    """Return the edges between layers: each node of one is reached from the layer before."""
    edges: dict[Edge, None] = {}
    for before, layer in zip(layers, layers[1:], strict=False):
        sources = rng.sample(before, len(before))
        for number, node in enumerate(layer):
            source = sources[number] if number < len(sources) else rng.choice(sources)
            edges[source, node] = None
    passed = layers[:-1]
    for _ in range(walk.num_back):
        later = rng.randrange(1, len(passed))
        edges[rng.choice(passed[later]), rng.choice(passed[rng.randrange(later)])] = None
    return list(edges) if walk.is_search else [(parent, node) for node, parent in edges]


def _draw_others(
    rng: random.Random, nodes: Sequence[str], count: int, closed: set[str], is_search: bool
) -> list[Edge]:
    """Return edges that change no answer.

    None leaves a node that a search passes, none leads to the one whose parents are asked for.
    """
    free = [node for node in nodes if node not in closed]
    sources, targets = (free, nodes) if is_search else (nodes, free)
    edges: dict[Edge, None] = {}
    while len(edges) < count:
        edge = (
            sources[int(rng.random() * len(sources))],
            targets[int(rng.random() * len(targets))],
        )
        if edge[0] != edge[1]:
            edges[edge] = None
    return list(edges)


def _spread(
    rng: random.Random, walk: Walk, own: Sequence[Edge], others: Sequence[Edge]
) -> list[Edge]:
    """Return all edges, those of the walk spread over the list.

    Parents have one part of the list each; of a search of two steps or more no way is complete in
    the list's end.
    """
    total = len(own) + len(others)
    if walk.is_search:
        places = rng.sample(range(total), len(own))
        _break_ways(rng, walk, own, places, total)
    else:
        bounds = [number * total // len(own) for number in range(len(own) + 1)]
        places = [rng.randrange(*ends) for ends in zip(bounds, bounds[1:], strict=False)]
    at = dict(zip(places, own, strict=True))
    rest = iter(others)
    return [at[place] if place in at else next(rest) for place in range(total)]


def _break_ways(
    rng: random.Random, walk: Walk, own: Sequence[Edge], places: list[int], total: int
) -> None:
    """Move edges out of the list's end until no way to an answer is complete in it."""
    begin = int(total * (1 - _LAST_SHARE))
    start = own[0][0]
    while walk.depth > 1:
        last = [number for number, place in enumerate(places) if place >= begin]
        if not search([own[number] for number in last], start, walk.depth):
            return
        moved = rng.choice([number for number in last if own[number][0] == start])
        places[moved] = rng.choice([place for place in range(begin) if place not in places])


TASK = GraphWalks()
