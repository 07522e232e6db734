"""MFCC: equal to the golden array, and untouched by padding."""

import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.features.mfcc import MFCCConfig, cosine_transform, mirror
from anemone.types import checked
from tests.features.test_mel import GOLDEN, golden_batch, noise, stored_frames


def test_it_equals_the_golden_array_in_every_frame_and_beyond_each_length():
    out = MFCCConfig(edges="batch").build().eval()(*golden_batch())
    assert out.x_len.tolist() == GOLDEN["mfcc.len"].tolist()
    expected = torch.from_numpy(GOLDEN["mfcc.out"])
    torch.testing.assert_close(out.x[..., stored_frames(330)], expected, rtol=0, atol=1e-4)


def test_mirroring_at_each_end_changes_no_frame_before_the_last_of_a_padded_utterance():
    batch = golden_batch()
    ours, peers = (MFCCConfig(edges=edges).build()(*batch).x for edges in ("utterance", "batch"))
    changed = (ours - peers).abs().amax(1) > 1e-3
    assert changed.nonzero().tolist() == [*([0, frame] for frame in range(298, 330)), [1, 329]]


def test_an_utterance_is_the_same_alone_and_in_a_batch_whatever_stands_beyond_it():
    features = MFCCConfig(num_mfcc=20, pad_to=8).build().eval()
    x, x_len = noise(8_000, 5_001, 100)
    together = features(x, x_len)
    for i, size in enumerate(x_len):
        alone = features(x[i : i + 1, :size], size[None])
        frames = alone.x_len.item()
        assert frames == together.x_len[i] == -(-size.item() // 160)
        torch.testing.assert_close(together.x[i, :, :frames], alone.x[0, :, :frames], rtol=0, atol=1e-4)
        assert together.x[i, :, frames:].count_nonzero() == 0
    x[torch.arange(x.shape[1]) >= x_len[:, None]] = 1e30
    assert torch.equal(features(x, x_len).x, together.x)


def test_mirror_continues_each_utterance_at_its_own_end():
    x = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 9]])
    assert mirror(x, torch.tensor([4, 3]), 2).tolist() == [[3, 2, 1, 2, 3, 4, 3, 2], [3, 2, 1, 2, 3, 2, 1, 1]]


def test_the_cosine_transform_is_orthonormal():
    matrix = cosine_transform(64, 64)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64), rtol=0, atol=1e-5)
    assert torch.equal(cosine_transform(13, 64), matrix[:13])


def test_it_is_float32_under_autocast_compiles_and_exports():
    features = MFCCConfig().build().eval()
    batch = noise(4_000, 3_000)
    expected = features(*batch).x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(*batch).x, expected)
    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch).x, expected)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=1000)}
    exported = torch.export.export(features, batch, dynamic_shapes=(sizes, {0: sizes[0]})).module()
    longer = noise(5_555, 4_444, 3_333)
    torch.testing.assert_close(exported(*longer)[0], features(*longer).x)


def test_ports_hold():
    features = MFCCConfig(num_mfcc=13).build()
    with checked(features):
        assert features(*noise(3_000, 2_000)).x.shape[1] == features.num_features == features.num_mfcc == 13


def test_more_coefficients_than_filters_are_refused():
    with pytest.raises(ConfigError, match=r"`num_mfcc` must be in 1\.\.40 \(`num_mels`\), but is 41 instead\."):
        decode(MFCCConfig, {"num_mels": 40, "num_mfcc": 41})
