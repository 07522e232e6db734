"""A drawing is valid SVG in which everything is named, nothing overlaps and nothing is cut off."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import NamedTuple

import pytest
from torch import Tensor, nn

from anemone.cli.graph import CHAR, draw
from anemone.testing import tiny
from anemone.types import Audio, Chain, Frames, Logits, Mel, Samples, Tokens

NAMESPACE = "{http://www.w3.org/2000/svg}"


class MelBatch(NamedTuple):
    x: Mel[Tensor, "B F=8 T"]
    x_len: Frames[Tensor, "B"]


class Front(nn.Module):
    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> MelBatch:
        raise NotImplementedError


class Smooth(nn.Module):
    def forward(self, x: Mel[Tensor, "B F=8 T"]) -> Mel[Tensor, "B F=8 T"]:
        raise NotImplementedError


class Head(nn.Module):
    def forward(
        self, x: Mel[Tensor, "B F=8 T"], x_len: Frames[Tensor, "B"], prompt: Tokens[Tensor, "B N"]
    ) -> Logits[Tensor, "B V=3"]:
        raise NotImplementedError


CHAINS = {
    "task": lambda: tiny("classification").network,
    "skips": lambda: Chain(front=Front(), smooth=Smooth(), head=Head()),
}


def drawn(name):
    root = ET.fromstring(draw(CHAINS[name](), "a title with <signs> & more"))
    texts = root.findall(f"{NAMESPACE}text")
    boxes = [rect for rect in root.findall(f"{NAMESPACE}rect") if rect.get("class") == "stage"]
    wires = [path for path in root.findall(f"{NAMESPACE}path") if path.get("class") == "wire"]
    return root, texts, boxes, wires


@pytest.mark.parametrize("name", CHAINS)
def test_every_stage_and_every_wire_is_drawn_and_named(name):
    chain = CHAINS[name]()
    _, texts, boxes, wires = drawn(name)
    words = [text.text for text in texts]
    assert "a title with <signs> & more" in words
    assert {"(input)", "(output)", *chain.wiring} <= set(words)
    assert len(boxes) == len(chain.wiring) + 2
    assert len(wires) == sum(len(set(fed.values())) for fed in chain.wiring.values()) + 1
    for fed in chain.wiring.values():
        assert all(any(word.startswith(f"{argument}: ") for word in words) for argument in fed)


def test_a_wire_that_skips_stages_says_where_it_comes_from():
    words = [text.text for text in drawn("skips")[1]]
    assert 'x_len: Frames["B"] from front' in words and 'prompt: Tokens["B N"] from input' in words
    assert 'x: Mel["B F=8 T"]' in words


@pytest.mark.parametrize("name", CHAINS)
def test_boxes_do_not_overlap_and_nothing_is_cut_off(name):
    root, texts, boxes, _ = drawn(name)
    width, height = float(root.get("width")), float(root.get("height"))
    spans = sorted((float(box.get("y")), float(box.get("y")) + float(box.get("height"))) for box in boxes)
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] < height
    for text in texts:
        if text.get("class") is None:
            y, end = float(text.get("y")), float(text.get("x")) + CHAR * len(text.text)
            assert end <= width and not any(top <= y <= bottom for top, bottom in spans)
