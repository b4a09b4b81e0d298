"""A generator of ProsQA problems: is the person an X or a Y? One can be reached in a graph of "Every X is a Y", one cannot.

    Every lempus is a jelpus. Tom is a lempus. Every yerpus is a fompus. Bob is a yerpus. ... Is Tom a jelpus or fompus?
    steps  Tom is a lempus.  Every lempus is a jelpus.     answer  Tom is a jelpus.

The training file of Coconut (17,886 rows) is not at hand everywhere; this makes rows with the same fields and the same
statistics. The procedure is that of Coconut's appendix in outline (two first nodes, each new node under a few earlier
ones, most of them descendants of one of the two, deeper parents preferred). Its details were found by comparing with the
800 rows of the published validation and test files:

    nodes        28 are drawn, and those that get no edge are left out: 22.8 on average (the files: 22.8)
    parents      Poisson(1.5); a node without any that is used later becomes one more person
    whose        35 % take parents among the first person's descendants only, 46 % among the second's, the rest anywhere
    which        weight 1 + 1.5 x depth for descendants of one person, 1 for descendants of both or of none
    target       the deepest sink that only one of the two reaches, 3 to 6 steps away; ties are drawn
    neg_target   any sink that only the other reaches
    text         all edges in random order; options in random order; steps are one of the shortest paths

`tests/tasks/generated/test_prosqa.py` holds generated rows against the files. Names and words are those of the files.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from unspoken.tasks.generated.generated import Problem, words

NAMES = words("Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom Wren")
CONCEPTS = words(
    "bompus boompus brimpus chorpus dumpus felpus fompus gerpus gorpus grimpus gwompus hilpus impus jelpus jompus kerpus "
    "lempus lorpus numpus quimpus rempus rompus rorpus scrompus shumpus sterpus storpus terpus timpus tumpus vumpus "
    "worpus wumpus yerpus yimpus yumpus zhorpus zumpus"
)

MIN_STEPS, MAX_STEPS = 3, 6

NODES = 28
MIN_NODES = 8
_PARENTS = 1.5
_FIRST, _SECOND = 0.35, 0.46
_DEPTH_WEIGHT = 1.5
_NEITHER, _BOTH = 0, 3  # whose descendant a node is: 1 and 2 are the two persons


class GraphProblem(Problem):
    """A row with the published files' own fields: the graph, and where the question begins and ends in it."""

    idx_to_symbol: list[str]
    edges: list[list[int]]
    root: int
    target: int
    neg_target: int


@dataclass(frozen=True)
class _Graph:
    parents: list[list[int]]
    whose: list[int]
    depth: list[int]  # the fewest steps from the nearest of the two persons; 0 for nodes that neither reaches


def problems(seed: str, max_steps: int = MAX_STEPS, nodes: int = NODES) -> Iterator[GraphProblem]:
    """Endless rows with the fields of the published files: question, steps, answer, idx_to_symbol, edges, root, target,
    neg_target. The same rows for the same seed, on every machine.

    Args:
        seed: any text.
        max_steps: no problem needs more steps than this (3 to 6).
        nodes: are drawn for a graph.
    """
    rng = random.Random(f"prosqa/{seed}")
    while True:
        graph = _draw(rng, nodes)
        row = _problem(rng, graph, max_steps)
        if row is not None:
            yield row


def _poisson(rng: random.Random, mean: float) -> int:
    """A Poisson count, from products of uniform draws."""
    limit, product, count = exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def _draw(rng: random.Random, nodes: int) -> _Graph:
    graph = _Graph(parents=[[], []], whose=[1, 2], depth=[0, 0])
    for node in range(2, nodes):
        count, share = _poisson(rng, _PARENTS), rng.random()
        side = 1 if share < _FIRST else 2 if share < _FIRST + _SECOND else None
        pool = [other for other in range(node) if side is None or graph.whose[other] == side]
        weights = [1 + _DEPTH_WEIGHT * graph.depth[other] if graph.whose[other] in (1, 2) else 1.0 for other in pool]
        parents: list[int] = []
        while pool and len(parents) < count:
            (place,) = rng.choices(range(len(pool)), weights)
            parents.append(pool.pop(place))
            weights.pop(place)
        whose = _NEITHER
        for parent in parents:
            whose |= graph.whose[parent]
        graph.parents.append(parents)
        graph.whose.append(whose)
        graph.depth.append(1 + min((graph.depth[p] for p in parents if graph.whose[p] != _NEITHER), default=-1))
    return graph


def _problem(rng: random.Random, graph: _Graph, max_steps: int) -> GraphProblem | None:
    """Make a question about a graph; None if no two sinks fit."""
    used = {parent for parents in graph.parents for parent in parents}
    kept = [node for node in range(len(graph.parents)) if graph.parents[node] or node in used]
    sinks = [node for node in kept if node not in used and graph.whose[node] in (1, 2)]
    steps = max((graph.depth[node] for node in sinks), default=0)
    persons = sum(not graph.parents[node] for node in kept)
    if not {0, 1} <= used or not MIN_STEPS <= steps <= max_steps or persons > len(NAMES):
        return None
    target = rng.choice([node for node in sinks if graph.depth[node] == steps])
    others = [node for node in sinks if graph.whose[node] != graph.whose[target]]
    if not others:
        return None
    neg_target, root = rng.choice(others), graph.whose[target] - 1
    path = _shortest(rng, graph, target)
    names, concepts = rng.sample(NAMES, len(NAMES)), rng.sample(CONCEPTS, len(CONCEPTS))
    symbol = {node: names.pop() if not graph.parents[node] else concepts.pop() for node in kept}

    def sentence(parent: int, child: int) -> str:
        subject = symbol[parent] if not graph.parents[parent] else f"Every {symbol[parent]}"
        return f"{subject} is a {symbol[child]}."

    edges = [(parent, node) for node in kept for parent in graph.parents[node]]
    told = [sentence(*edge) for edge in edges]
    rng.shuffle(told)
    options = [symbol[target], symbol[neg_target]]
    rng.shuffle(options)
    number = {node: place for place, node in enumerate(kept)}
    return {
        "question": f"{' '.join(told)} Is {symbol[root]} a {options[0]} or {options[1]}?",
        "answer": f"{symbol[root]} is a {symbol[target]}.",
        "steps": [sentence(*edge) for edge in pairwise(path)],
        "idx_to_symbol": [symbol[node] for node in kept],
        "edges": [[number[parent], number[child]] for parent, child in edges],
        "root": number[root],
        "target": number[target],
        "neg_target": number[neg_target],
    }


def _shortest(rng: random.Random, graph: _Graph, target: int) -> list[int]:
    """A random shortest path from the target's person to the target."""
    root = graph.whose[target] - 1
    children: dict[int, list[int]] = {node: [] for node in range(len(graph.parents))}
    for child, parents in enumerate(graph.parents):
        for parent in parents:
            children[parent].append(child)
    distance, ways, queue = {root: 0}, {root: 1}, deque([root])
    while queue:
        node = queue.popleft()
        for child in children[node]:
            if child not in distance:
                distance[child], ways[child] = distance[node] + 1, 0
                queue.append(child)
            if distance[child] == distance[node] + 1:
                ways[child] += ways[node]
    path = [target]
    while path[-1] != root:
        before = [p for p in graph.parents[path[-1]] if distance.get(p, -1) == distance[path[-1]] - 1]
        path.append(rng.choices(before, [ways[p] for p in before])[0])
    return path[::-1]
