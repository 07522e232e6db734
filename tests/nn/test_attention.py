"""Every kernel computes the plain formula, and its gradients, for every pattern of who sees whom."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anemone.config import ConfigError
from anemone.nn import blocked_attention
from anemone.nn.attention import AttentionCore, attention, document_lens
from anemone.parallel.operations import OPERATIONS, Keep
from anemone.types import checked

FORWARD, GRADIENT = 2e-6, 1e-5
"""How far float32 may be from the plain formula in float64: of outputs up to 2, of gradients up to 10."""

B, N, K = 2, 37, 8
SEGMENTS = torch.tensor([[0] * 11 + [1] * 1 + [2] * 25, [7] * 37])
PATTERNS = {
    "causal": {},
    "all": {"causal": False},
    "scaled": {"scale": 0.7},
    "window": {"window": 5},
    "window of one": {"window": 1},
    "window of all": {"window": 400},
    "documents": {"segments": SEGMENTS},
    "documents, all": {"segments": SEGMENTS, "causal": False},
    "documents, window": {"segments": SEGMENTS, "window": 5},
}


def qkv(heads=4, shared=4, n=N, m=N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (B, n, heads, K), (B, m, shared, K), (B, m, shared, K)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def plain(query, key, value, *, causal=True, window=None, segments=None, bias=None, scale=None):
    """The formula, one line after the other, in float64."""
    query, key, value = (x.double() for x in (query, key, value))
    n, m, group = query.shape[1], key.shape[1], query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(group, 2) for x in (key, value))
    scores = torch.einsum("bnhk,bmhk->bhnm", query, key) * (1 / math.sqrt(query.shape[3]) if scale is None else scale)
    scores = scores if bias is None else scores + bias.double()
    for i, j in itertools.product(range(n), range(m)):
        at = m - n + i  # queries stand at the end
        seen = (not causal or j <= at) and (window is None or at - j < window)
        if not seen:
            scores[:, :, i, j] = -torch.inf
    if segments is not None:
        scores = scores.masked_fill(segments[:, None, :, None] != segments[:, None, None, :], -torch.inf)
    return torch.einsum("bhnm,bmhk->bnhk", scores.softmax(-1), value)


def compare(inputs, **settings):
    """Output and gradients of `attention` against the formula's."""
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    kernel = settings.pop("kernel", "auto")
    results = []
    for function, more in ((attention, {"kernel": kernel}), (plain, {})):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = function(*leaves, **settings, **more)
        (out * weight).sum().backward()
        results.append((out.detach(), [x.grad for x in leaves]))
    (out, gradients), (want, wanted) = results
    assert out.shape == want.shape and out.dtype == torch.float32
    assert torch.allclose(out.double(), want, rtol=0, atol=FORWARD)
    for name, gradient, expected in zip("qkv", gradients, wanted, strict=True):
        assert torch.allclose(gradient, expected, rtol=0, atol=GRADIENT), name


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("kernel", ["auto", "sdpa", "packed"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_outputs_and_gradients_are_those_of_the_formula(kernel, pattern, shared):
    compare(qkv(shared=shared), kernel=kernel, **PATTERNS[pattern])


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("n", [2, N, 150])
def test_blocks_of_queries_compute_the_formula(monkeypatch, n, shared):
    """In several blocks of queries, and with heads one after the other."""
    for scores in (1 << 20, 1 << 10):
        monkeypatch.setattr(blocked_attention, "SCORES", scores)
        compare(qkv(shared=shared, n=n, m=n), kernel="blocked", scale=0.7)


@pytest.mark.parametrize("kernel", ["sdpa", "packed"])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_fewer_queries_than_keys_stand_at_the_end(kernel, window, n):
    compare(qkv(n=n), kernel=kernel, window=window)


@pytest.mark.parametrize("window", [100, 200])
@pytest.mark.parametrize("n", [300, 130])
def test_long_texts_under_a_window_come_in_stretches(window, n):
    query, key, value = qkv(heads=1, shared=1, n=n, m=300)
    want = attention(query, key, value, window=window, kernel="sdpa")
    got = attention(query, key, value, window=window, kernel="packed")
    assert torch.allclose(got, want, rtol=0, atol=FORWARD)


@pytest.mark.parametrize("shape", [(B, 4, N, N), (1, 1, N, N), (B, 1, N, N)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_bias_is_added_to_the_scores(pattern, shape):
    compare(qkv(), bias=torch.randn(shape), **PATTERNS[pattern])


def test_a_bias_may_be_learned():
    bias = torch.randn(1, 4, N, N, requires_grad=True)
    weight = torch.randn(B, N, 4, K)
    (attention(*qkv(), bias=bias) * weight).sum().backward()
    got, bias.grad = bias.grad, None
    (plain(*qkv(), bias=bias) * weight).sum().backward()
    assert torch.allclose(got, bias.grad, rtol=0, atol=GRADIENT)


@pytest.mark.parametrize("pattern", ["causal", "window", "documents"])
def test_half_precision_stays_within_its_rounding(pattern):
    """Of outputs up to 2: 2 ** -7; of gradients of their squares up to 4: 2 ** -5."""
    results = []
    for function in (attention, plain):
        leaves = qkv(dtype=torch.bfloat16)
        out = function(*leaves, **PATTERNS[pattern])
        out.double().square().sum().backward()
        results.append((out, [x.grad for x in leaves]))
    (got, gradients), (want, wanted) = results
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.double(), want, rtol=0, atol=2**-7)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert torch.allclose(gradient, expected, rtol=2**-6, atol=2**-5)


def test_short_rows_of_a_cpu_in_half_precision_come_in_blocks_of_queries_under_autocast_too():
    """One operation to recomputation, and as exact inside as outside: scores are never of half precision."""
    leaves = qkv(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), Keep(OPERATIONS["attention"]) as keep:
        got = attention(*leaves)
    assert [x.shape for x in keep.results] == [(B * 4, 1, N, K)]
    assert torch.equal(got, attention(*leaves))


class Sizes(TorchDispatchMode):
    """Sizes of all tensors that operations make; views make none."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.made += [x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor)]
        return out


@pytest.mark.parametrize(
    "settings",
    [{}, {"causal": False}, {"window": 64}, {"segments": torch.arange(512)[None] // 64}],
    ids=["causal", "all", "window", "documents"],
)
def test_no_table_of_all_pairs_is_made(settings):
    query, key, value = (x[:1].detach().requires_grad_() for x in qkv(heads=2, shared=1, n=512, m=512))
    with Sizes() as sizes:
        attention(query, key, value, **settings).sum().backward()
    assert len(sizes.made) > 3
    assert max(sizes.made) < 512 * 512 / 8


def test_grouped_heads_are_not_copied():
    """The output alone is as large as the queries."""
    query, key, value = qkv(heads=8, shared=1)
    with Sizes() as sizes, torch.no_grad():
        attention(query, key, value)
    assert sizes.made.count(query.numel()) == 1
    assert max(sizes.made) == query.numel()


@pytest.mark.parametrize(
    ("segments", "lens"),
    [([[0, 0, 1], [1, 1, 1]], [2, 1, 3]), ([[3, 3, 3]], [3]), ([[1, 2, 1]], [1, 1, 1])],
    ids=str,
)
def test_documents_end_where_numbers_change_and_rows_end(segments, lens):
    assert document_lens(torch.tensor(segments)) == lens


def test_flex_computes_the_formula(monkeypatch):
    """The patterns as FlexAttention is told them; its own kernels are for GPUs, so here it computes them plainly."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr("anemone.nn.attention._compiled_flex", lambda: flex_attention.flex_attention)
    for settings in [*PATTERNS.values(), {"bias": torch.randn(1, 4, N, N)}]:
        inputs = [x.detach() for x in qkv(shared=2)]
        got = attention(*inputs, kernel="flex", **settings)
        assert torch.allclose(got.double(), plain(*inputs, **settings), rtol=0, atol=FORWARD)


def documented(query, key, value, starts, of_keys, longest, of_longest, *, scale, window_size, enable_gqa):
    """What PyTorch's documentation says of `varlen_attn`: its kernels are for GPUs."""
    assert starts.dtype == of_keys.dtype == torch.int32
    assert longest == starts.diff().max() and of_longest == of_keys.diff().max()
    left, right = window_size
    outs = []
    for a, b, c, d in zip(starts[:-1], starts[1:], of_keys[:-1], of_keys[1:], strict=True):
        assert right in (0, -1)
        window = None if left < 0 else left + 1
        part = plain(query[None, a:b], key[None, c:d], value[None, c:d], causal=right == 0, window=window, scale=scale)
        outs.append(part[0])
    return torch.cat(outs)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_packed_sequences_are_told_as_varlen_attention_documents_them(monkeypatch, pattern):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", documented)
    got = attention(*qkv(shared=2), kernel="varlen", **PATTERNS[pattern])
    assert torch.allclose(got, plain(*qkv(shared=2), **PATTERNS[pattern]), rtol=0, atol=FORWARD)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kernel", ["sdpa", "packed", "flex", "varlen"])
def test_on_a_gpu_outputs_and_gradients_are_those_of_the_formula(kernel, pattern):
    """In bfloat16, within 2 ** -6 of the largest number."""
    settings = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in PATTERNS[pattern].items()}
    generator = torch.Generator().manual_seed(0)
    shapes = (B, N, 4, 64), (B, N, 2, 64), (B, N, 2, 64)
    inputs = [torch.randn(shape, generator=generator).bfloat16().cuda().requires_grad_() for shape in shapes]
    out, want = attention(*inputs, kernel=kernel, **settings), plain(*inputs, **settings)
    weight = torch.randn(out.shape, generator=generator).cuda()
    got, wanted = (torch.autograd.grad((x * weight).sum(), inputs) for x in (out, want))
    for mine, theirs in zip((out, *got), (want, *wanted), strict=True):
        assert (mine.double() - theirs.double()).abs().max() <= 2**-6 * theirs.abs().max()


def test_the_module_is_the_function():
    core = AttentionCore(window=5, scale=0.3, kernel="sdpa")
    query, key, value = qkv(shared=2)
    with checked(core):
        got = core(query, key, value, SEGMENTS)
    want = attention(query, key, value, window=5, scale=0.3, segments=SEGMENTS, kernel="sdpa")
    assert torch.equal(got, want)
    assert not list(core.parameters())


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        ({"shared": 3}, {}, r"`key` must be of a number of heads that divides the 4 of the queries, but is 3 instead"),
        ({"m": 30}, {}, r"`query` must be no longer than the keys, 30, but is 37 instead"),
        ({}, {"window": 0}, r"`window` must be 1 or more, and only where `causal`, but is 0 instead"),
        ({}, {"window": 4, "causal": False}, r"`window` must be 1 or more, and only where `causal`, but is 4 instead"),
        ({"m": 40}, {"segments": SEGMENTS}, r"`segments` must be left out where queries and keys differ in length"),
        ({}, {"bias": torch.zeros(1, 1, N, N), "kernel": "packed"}, r"`bias` must be left out where `kernel` is"),
        (
            {},
            {"window": 4, "kernel": "blocked"},
            r"`kernel` must be other than \"blocked\" unless the pattern is causal",
        ),
        ({}, {"bias": torch.zeros(1, 1, N, N), "kernel": "varlen"}, r"`bias` must be left out where `kernel` is"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(inputs, settings, message):
    with pytest.raises(ConfigError, match=message):
        attention(*qkv(**inputs), **settings)
