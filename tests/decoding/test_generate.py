"""Keeping keys and values gives what computing all tokens anew gives; draws are those of the seeds."""

import pytest
import torch

from anemone.decoding.generate import choose, generate, hide, remembering
from anemone.models.text.llama import LlamaConfig
from anemone.nn.attention import AttentionCore

SIZES = {
    "plain": {"size": "tiny"},
    "window": {"size": "tiny", "window": 5},
    "experts": {"size": "mixtral_tiny"},
    "tied": {"size": "tiny", "tie_embeddings": True},
}
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [27, 18], [5], [1, 2, 3, 4, 5]]


def model(name="plain"):
    """A network whose weights are large enough for its scores to differ."""
    net = LlamaConfig(**SIZES[name]).build(40).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return net


def scores(net, tokens):
    return net(torch.tensor([tokens]), torch.arange(len(tokens))[None])[0]


def anew(net, prompt, number):
    """The likeliest continuation and its scores, by computing all tokens for each."""
    tokens, found = list(prompt), []
    for _ in range(number):
        found.append(scores(net, tokens)[-1])
        tokens.append(int(found[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(found)


@pytest.mark.parametrize("name", list(SIZES))
@torch.inference_mode()
def test_continuations_equal_those_computed_anew_alone_and_together(name):
    net = model(name)
    expected = [anew(net, prompt, 12)[0] for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)
    greedy = {"max_new_tokens": 12, "temperature": 0.0}
    assert generate(net, PROMPTS, **greedy, seeds=[0] * 4) == expected
    assert [generate(net, [prompt], **greedy, seeds=[0])[0] for prompt in PROMPTS] == expected


@pytest.mark.parametrize("name", list(SIZES))
@torch.inference_mode()
def test_scores_with_memory_equal_those_of_the_whole_in_any_pieces(name):
    net, tokens = model(name), torch.randint(40, (2, 23))
    positions = torch.arange(23).expand(2, 23)
    whole = net(tokens, positions)
    for cuts in ([23], [1] * 23, [7, 1, 1, 9, 5]):
        with remembering(net, 23):
            pairs = zip(tokens.split(cuts, 1), positions.split(cuts, 1), strict=True)
            pieces = torch.cat([net(*pair) for pair in pairs], 1)
        torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


def test_the_network_is_as_it_was_afterwards_even_after_an_error():
    net = model()
    cores = [module for module in net.modules() if isinstance(module, AttentionCore)]
    with pytest.raises(RuntimeError, match="inside"), remembering(net, 4):
        assert not [module for module in net.layers["0"].attention.children() if module in cores]
        raise RuntimeError("inside")
    assert [module for module in net.modules() if isinstance(module, AttentionCore)] == cores


def test_what_fills_a_text_up_is_read_by_itself_alone():
    hidden = hide(torch.tensor([0, 2]), 1, 4) < 0
    assert hidden.shape == (2, 1, 3, 4) and not hidden[0].any()
    assert hidden[1, 0].tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, False, False],
    ]


@torch.inference_mode()
def test_an_end_ends_its_own_text_alone_and_is_not_returned():
    net = model()
    whole = generate(net, PROMPTS, max_new_tokens=12, temperature=0.0, seeds=[0] * 4)
    end = next(token for token in whole[0][1:] if token not in whole[1])
    cut = generate(net, PROMPTS, max_new_tokens=12, temperature=0.0, end=end, seeds=[0] * 4)
    assert cut == [row[: row.index(end)] if end in row else row for row in whole]
    assert len(cut[0]) < 12 == len(cut[1])


@torch.inference_mode()
def test_draws_depend_on_the_seed_of_their_text_alone():
    net = model()
    together = generate(net, [[1, 2]] * 3, max_new_tokens=16, seeds=[7, 8, 7])
    assert together[0] == together[2] != together[1]
    assert generate(net, [[1, 2]], max_new_tokens=16, seeds=[8])[0] == together[1]


def test_tokens_are_drawn_in_proportion():
    generator, row = torch.Generator().manual_seed(0), torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    for temperature in (0.5, 1.0, 2.0):
        shares = (row / temperature).softmax(-1)[0]
        drawn = choose(row.expand(4000, 4), [generator] * 4000, temperature=temperature)
        found = torch.bincount(drawn, minlength=4) / 4000
        torch.testing.assert_close(found, shares, atol=0.03, rtol=0)
    assert choose(row, [generator], temperature=0).tolist() == [2]
    two = choose(row.expand(500, 4), [generator] * 500, temperature=3.0, top_k=2)
    assert set(two.tolist()) == {1, 2}
    assert set(choose(row.expand(50, 4), [generator] * 50, temperature=9.0, top_k=1).tolist()) == {2}
    assert set(choose(row.expand(500, 4), [generator] * 500, temperature=9.0, top_k=9).tolist()) == {0, 1, 2}
