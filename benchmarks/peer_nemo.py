"""The peer's side: NeMo's own modules, as its recipes put them together."""

from collections.abc import Callable

import torch
from nemo.collections.asr.losses.ctc import CTCLoss
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor, ConvASRDecoder, ConvASREncoder
from work import VOCABULARY, batch, descent, serve

BLOCKS = [(256, 33, 1, 2, 1, False)]
BLOCKS += [(width, kernel, 5, 1, 1, True) for width, kernel in [(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)]]
BLOCKS += [(512, 87, 1, 1, 2, False)]


def network() -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    front = AudioToMelSpectrogramPreprocessor(
        sample_rate=16_000, window_size=0.02, window_stride=0.01, features=64, n_fft=512, normalize="per_feature"
    )
    names = ("filters", "kernel", "repeat", "stride", "dilation", "residual", "separable")
    jasper = [dict(zip(names, (w, [k], r, [s], [d], res, True), strict=True)) for w, k, r, s, d, res in BLOCKS]
    jasper.append(dict(zip(names, (1024, [1], 1, [1], [1], False, False), strict=True)))
    encoder = ConvASREncoder(
        jasper=[block | {"dropout": 0.1} for block in jasper], activation="relu", feat_in=64, conv_mask=True
    )
    decoder = ConvASRDecoder(feat_in=1024, num_classes=VOCABULARY, vocabulary=[str(i) for i in range(VOCABULARY)])
    return front, encoder, decoder


def forward(
    parts: tuple[torch.nn.Module, ...], audio: torch.Tensor, audio_len: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    front, encoder, decoder = parts
    mel, mel_len = front(input_signal=audio, length=audio_len)
    encoded, encoded_len = encoder(audio_signal=mel, length=mel_len)
    return decoder(encoder_output=encoded), encoded_len


def log_mel() -> Callable[[], int]:
    front = AudioToMelSpectrogramPreprocessor(
        sample_rate=16_000, window_size=0.025, window_stride=0.01, features=80, n_fft=512, pad_to=0
    ).eval()
    audio, audio_len, *_ = batch()

    def work() -> int:
        with torch.inference_mode():
            return front(input_signal=audio, length=audio_len)[0].numel()

    return work


def quartznet_train() -> Callable[[], int]:
    parts = network()
    ctc = CTCLoss(num_classes=VOCABULARY, reduction="mean_batch")
    audio, audio_len, targets, target_len = batch()

    def loss() -> torch.Tensor:
        log_probs, lengths = forward(parts, audio, audio_len)
        return ctc(log_probs=log_probs, targets=targets, input_lengths=lengths, target_lengths=target_len)

    return descent(torch.nn.ModuleList(parts), loss)


def quartznet_infer() -> Callable[[], int]:
    parts = network()
    for part in parts:
        part.eval()
    audio, audio_len, *_ = batch()

    def work() -> int:
        with torch.inference_mode():
            log_probs, _ = forward(parts, audio, audio_len)
            log_probs.argmax(-1)
        return sum(p.numel() for part in parts for p in part.parameters())

    return work


if __name__ == "__main__":
    torch.set_num_threads(2)
    serve({"log_mel": log_mel, "quartznet_train": quartznet_train, "quartznet_infer": quartznet_infer})
