"""A drawing of a chain in plain SVG: stages from top to bottom, wires with the ports they carry."""

from html import escape
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from anemone.types import Chain, Port

WIDTH, HEIGHT, GAP, MARGIN = 300, 52, 30, 24  # of a box, between boxes around the labels, around it all; pixels
LINE, CHAR = 17, 7.3  # height of a line of labels and width of a letter, 12 px monospace
OUTPUT = "(output)"


class Box(NamedTuple):
    """A stage, or an end of the chain, at its place."""

    name: str
    text: str
    y: float


def draw(chain: Chain, title: str) -> str:
    """Returns the SVG text of a chain.

    Wires from the stage before run straight down; those that skip stages run on the left.

    Args:
        chain: the stages.
        title: the line above them.
    """
    stages = dict(chain.named_children())
    order = ["", *stages, OUTPUT]
    given = {"": chain.open_ports().inputs} | {name: stage.outputs for name, stage in chain.stages.items()}
    wires = {name: _sources(chain.wiring[name]) for name in stages} | {OUTPUT: {order[-2]: list(given[order[-2]])}}
    boxes, y = {}, MARGIN + 34.0
    for name in order:
        if name:
            y += GAP + LINE * max(1, sum(len(args) for args in wires[name].values()))
        boxes[name] = Box(name or "(input)", _describe(stages[name]) if name in stages else "", y)
        y += HEIGHT
    skips = [(source, name) for name in wires for source in wires[name] if _skips(order, source, name)]
    skips.sort(key=lambda wire: order.index(wire[0]) - order.index(wire[1]))  # the longest runs outermost
    left = MARGIN + 22.0 * len(skips) + (12 if skips else 0)
    parts, widest = [], len(title) * 10.0
    for before, name in pairwise(order):
        fed = [(source, arg) for source, args in wires[name].items() for arg in args]
        text = [_label(order, name, source, arg, given[source][arg]) for source, arg in fed]
        parts += _labels(text, left + WIDTH / 2 + 14, boxes[name].y - GAP / 2 - LINE * len(text) + 2)
        widest = max([widest, *(WIDTH / 2 + 14 + len(line) * CHAR for line in text)])
        if before in wires[name]:
            x, top = left + WIDTH / 2, boxes[before].y + HEIGHT
            parts.append(f'<path d="M{x:g} {top:g}V{boxes[name].y - 1:g}" class="wire"/>')
    for lane, (source, name) in enumerate(skips):
        start, end = boxes[source].y + HEIGHT * 0.3, boxes[name].y + HEIGHT * (0.8 - 0.4 * lane / len(skips))
        x = MARGIN + 22 * lane
        parts.append(f'<path d="M{left:g} {start:g}H{x:g}V{end:g}H{left - 1:g}" class="wire"/>')
    shapes = [shape for box in boxes.values() for shape in _box(box, left)]
    width, height = left + max(widest, WIDTH) + MARGIN, y + MARGIN
    heading = f'<text x="{MARGIN}" y="{MARGIN + 10}" class="title">{escape(title)}</text>'
    return "\n".join([_HEAD.format(width=width, height=height), heading, *parts, *shapes, "</svg>\n"])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"
 viewBox="0 0 {width:g} {height:g}">
<style>
text {{ font: 12px ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace; fill: #1d2733 }}
.title {{ font: bold 15px system-ui, Helvetica, Arial, DejaVu Sans, sans-serif }}
.name {{ font: bold 14px system-ui, Helvetica, Arial, DejaVu Sans, sans-serif; text-anchor: middle }}
.about {{ font: 12px system-ui, Helvetica, Arial, DejaVu Sans, sans-serif; fill: #4a5a6a; text-anchor: middle }}
.stage {{ fill: #e8f1f8; stroke: #2f6690; stroke-width: 1.5 }}
.wire {{ fill: none; stroke: #2f6690; stroke-width: 1.5; marker-end: url(#arrow) }}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0L8 4L0 8z" fill="#2f6690"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>"""


def _sources(wires: dict[str, str]) -> dict[str, list[str]]:
    """Source -> the arguments it feeds."""
    return {source: [arg for arg, fed in wires.items() if fed == source] for source in dict.fromkeys(wires.values())}


def _skips(order: list[str], source: str, name: str) -> bool:
    return order.index(name) - order.index(source) > 1


def _label(order: list[str], name: str, source: str, arg: str, port: Port) -> str:
    """What a wire carries; also whence, if not from the stage before."""
    return f"{arg}: {port}" + (f" from {source or 'input'}" if _skips(order, source, name) else "")


def _labels(lines: list[str], x: float, y: float) -> list[str]:
    return [f'<text x="{x:g}" y="{y + LINE * (i + 0.75):g}">{escape(line)}</text>' for i, line in enumerate(lines)]


def _describe(stage: nn.Module) -> str:
    return f"{type(stage).__name__}, {sum(p.numel() for p in stage.parameters()):,} parameters"


def _box(box: Box, x: float) -> list[str]:
    """A rectangle with its name and, below, what is in it."""
    middle = x + WIDTH / 2
    name_y = box.y + (22 if box.text else 31)
    shapes = [
        f'<rect x="{x:g}" y="{box.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" class="stage"/>',
        f'<text x="{middle:g}" y="{name_y:g}" class="name">{escape(box.name)}</text>',
    ]
    if box.text:
        shapes.append(f'<text x="{middle:g}" y="{box.y + 40:g}" class="about">{escape(box.text)}</text>')
    return shapes
