"""Windows, mel filters and energies: equal to golden buffers and to the textbook."""

import pytest
import torch

from anemone.config import decode
from anemone.features.mel import LogMelConfig
from anemone.features.spectrum import MelEnergies, htk_hz, htk_mel, make_window, mel_filterbank, slaney_hz, slaney_mel
from tests.features.test_mel import GOLDEN, VARIANTS


@pytest.mark.parametrize("name", ["w25_f80_pf", "w20_f64_pf_padto16"])
def test_the_window_and_the_filters_equal_the_golden_buffers(name):
    config = decode(LogMelConfig, VARIANTS[name])
    window, pad = make_window(config, periodic=False), (512 - config.win) // 2
    assert torch.equal(window[pad : 512 - pad], torch.from_numpy(GOLDEN[f"{name}.window"]))
    assert window[:pad].count_nonzero() == 0 == window[512 - pad :].count_nonzero()
    filters = mel_filterbank(config, scale="slaney")
    torch.testing.assert_close(filters, torch.from_numpy(GOLDEN[f"{name}.fb"]), rtol=0, atol=1e-8)


def test_each_filter_has_unit_area():
    filters = mel_filterbank(LogMelConfig(n_fft=16384), scale="slaney")
    areas = filters.sum(1) * 16_000 / 16384
    torch.testing.assert_close(areas, torch.ones(80), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("to_mel", "to_hz"), [(slaney_mel, slaney_hz), (htk_mel, htk_hz)])
def test_a_mel_scale_rises_and_its_inverse_undoes_it(to_mel, to_hz):
    hz = torch.linspace(0, 12_000, 500, dtype=torch.float64)
    assert (to_mel(hz).diff() > 0).all()
    torch.testing.assert_close(to_hz(to_mel(hz)), hz)
    assert to_mel(torch.tensor(1000.0)).item() == pytest.approx(15 if to_mel is slaney_mel else 1000, abs=0.1)


def test_bands_and_pieces_give_what_the_whole_matrix_and_all_frames_at_once_give():
    energies = MelEnergies(LogMelConfig(num_mels=23), scale="slaney", periodic=False)
    x = torch.randn(2, 100_000)
    spectrum = torch.stft(x, 512, 160, window=energies.window, center=False, return_complex=True)
    torch.testing.assert_close(energies(x), energies.filterbank @ spectrum.abs().square(), rtol=1e-4, atol=1e-6)


def test_windows_of_whole_samples_lose_none_to_rounding():
    assert LogMelConfig(rate=22_050, window_ms=1024 / 22.05, hop_ms=256 / 22.05, n_fft=1024).win == 1024
    assert [LogMelConfig(window_ms=ms).win for ms in (20, 25, 31.9375)] == [320, 400, 511]
    assert LogMelConfig(window_ms=20.1).fft == 512 and LogMelConfig(rate=8_000, window_ms=32).fft == 256
