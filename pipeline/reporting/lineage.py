"""Who was made from whom, as a layered graph in SVG (Sugiyama, Tagawa and Toda 1981): parents above their children."""

from __future__ import annotations

import itertools
from html import escape
from pathlib import Path
from statistics import fmean

from pipeline.reporting.run_folder import Run, depths, parent_path
from pipeline.reporting.table import duration

_BOX, _HEIGHT, _LANE, _GAP, _PITCH = 148, 50, 14, 16, 88
_SWEEPS = 4

Edge = tuple[str, str]


def ancestry(run: Run) -> dict[str, list[str]]:
    """What each stage was made from: stages of the run by name, anything else by the name of its folder or hub id."""
    names = {stage.path.resolve(): stage.name for stage in run.stages}
    parents = {}
    for stage in run.stages:
        made_from = [parent_path(stage, parent) for parent in stage.manifest.get("parents", [])]
        above = [names.get(path.resolve(), path.name) for path in made_from]
        above += [Path(str(source["path"])).name for source in stage.manifest.get("data", [])]
        parents[stage.name] = [name for name in dict.fromkeys(above) if name != stage.name]
    return parents


def lineage_svg(run: Run) -> str:
    """The graph as an SVG element of its natural size."""
    parents = ancestry(run)
    layers, edges = _layers(parents)
    places, width = _places(layers, edges)
    height = len(layers) * _PITCH - (_PITCH - _HEIGHT)
    told = "; ".join(f"{name} from {', '.join(above)}" for name, above in parents.items() if above)
    lines = "".join(f'<path d="{_path([places[node] for node in nodes])}"/>' for nodes in edges.values())
    stages = {stage.name: stage for stage in run.stages}
    boxes = []
    for name, (x, y) in places.items():
        if not isinstance(name, str):
            continue
        stage = stages.get(name)
        facts = [stage.kind or "stage", duration(stage.seconds)] if stage else ["from outside"]
        kind = "" if stage is None else " model" if stage.is_model else " data"
        boxes.append(
            f'<g class="node{kind}"><rect x="{x - _BOX / 2:g}" y="{y:g}" width="{_BOX}" height="{_HEIGHT}" rx="8"/>'
            f'<text x="{x:g}" y="{y + 20:g}" class="name">{escape(_short(name, 18))}</text>'
            f'<text x="{x:g}" y="{y + 38:g}">{escape(" · ".join(facts))}</text></g>'
        )
    return (
        f'<svg class="lineage" role="img" aria-label="{escape(f"ancestry: {told}", quote=True)}" width="{width}" '
        f'height="{height + 4}" viewBox="0 -2 {width} {height + 4}"><g class="edges">{lines}</g>{"".join(boxes)}</svg>'
    )


def _layers(parents: dict[str, list[str]]) -> tuple[list[list[object]], dict[Edge, list[object]]]:
    """Nodes by depth, and for each edge the nodes it passes: where it skips layers, a lane of its own in each of them."""
    depth = depths(parents)
    layers: list[list[object]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for name, level in depth.items():
        layers[level].append(name)
    edges: dict[Edge, list[object]] = {}
    for child, above in parents.items():
        for parent in above:
            edges[parent, child] = [parent]
            for level in range(depth[parent] + 1, depth[child]):
                lane = (parent, child, level)
                layers[level].append(lane)
                edges[parent, child].append(lane)
            edges[parent, child].append(child)
    steps = [step for nodes in edges.values() for step in itertools.pairwise(nodes)]
    for sweep in range(_SWEEPS):  # each node near the mean of its neighbours in the layer before, down and up in turn
        for before, layer in itertools.pairwise(layers if sweep % 2 == 0 else layers[::-1]):
            rank = {node: i for i, node in enumerate(before)}
            near: dict[object, list[int]] = {node: [] for node in layer}
            for a, b in (step if sweep % 2 == 0 else step[::-1] for step in steps):
                if a in rank and b in near:
                    near[b].append(rank[a])
            order = {node: i for i, node in enumerate(layer)}
            layer.sort(key=lambda node: fmean(near[node]) if near[node] else order[node])
    return layers, edges


def _places(
    layers: list[list[object]], edges: dict[Edge, list[object]]
) -> tuple[dict[object, tuple[float, float]], int]:
    """Middle of each node's upper edge, and the width of the whole."""
    widths = [sum(_width(node) + _GAP for node in layer) - _GAP for layer in layers]
    whole = max(widths, default=_BOX) + 4
    places: dict[object, tuple[float, float]] = {}
    for level, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        x = (whole - width) / 2
        for node in layer:
            places[node] = (x + _width(node) / 2, level * _PITCH)
            x += _width(node) + _GAP
    return places, whole


def _width(node: object) -> int:
    return _BOX if isinstance(node, str) else _LANE


def _path(points: list[tuple[float, float]]) -> str:
    """From the lower edge of the first box, straight through lanes, to the upper edge of the last."""
    (x, y), *others = points
    y += _HEIGHT
    path = f"M{x:g} {y:g}"
    for i, (next_x, next_y) in enumerate(others):
        path += f"C{x:g} {y + 22:g} {next_x:g} {next_y - 22:g} {next_x:g} {next_y:g}"
        x, y = next_x, next_y
        if i < len(others) - 1:
            y += _HEIGHT
            path += f"V{y:g}"
    return path


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
