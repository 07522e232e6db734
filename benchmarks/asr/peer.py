"""The peer's side: NeMo's own models. Writes them as archives for the other side, then times what it is told to.

python benchmarks/asr/peer.py FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from nemo.collections.asr.models import EncDecCTCModel, EncDecRNNTModel
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import VOCABULARY, batch, descent, serve

LABELS = [chr(0x3400 + i) for i in range(VOCABULARY)]
FEATURES = {
    "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
    "sample_rate": 16_000,
    "normalize": "per_feature",
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "features": 80,
    "n_fft": 512,
    "dither": 1e-5,
    "pad_to": 0,
}
ENCODER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 80,
    "n_layers": 16,
    "d_model": 176,
    "n_heads": 4,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 176,
    "conv_kernel_size": 9,
    "self_attention_model": "rel_pos",
    "dropout": 0.1,
    "dropout_pre_encoder": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.1,
}
CTC_HEAD = {
    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
    "feat_in": 176,
    "num_classes": VOCABULARY,
    "vocabulary": LABELS,
}
PREDICTOR = {
    "_target_": "nemo.collections.asr.modules.RNNTDecoder",
    "normalization_mode": None,
    "random_state_sampling": False,
    "blank_as_pad": True,
    "prednet": {"pred_hidden": 320, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.1},
}
JOINT = {
    "_target_": "nemo.collections.asr.modules.RNNTJoint",
    "log_softmax": None,
    "preserve_memory": False,
    "fuse_loss_wer": False,
    "jointnet": {"joint_hidden": 320, "activation": "relu", "dropout": 0.1},
    "num_classes": VOCABULARY,
    "vocabulary": LABELS,
}


def settings(kind: str) -> OmegaConf:
    """Settings of a FastConformer of the small size, with a CTC head or as a transducer."""
    both = {"sample_rate": 16_000, "labels": LABELS, "preprocessor": FEATURES, "encoder": ENCODER}
    if kind == "ctc":
        return OmegaConf.create(both | {"decoder": CTC_HEAD})
    sizes = {"enc_hidden": 176, "pred_hidden": 320, "joint_hidden": 320}
    decoding = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
    loss = {"loss_name": "default"}
    return OmegaConf.create(
        both | {"model_defaults": sizes, "decoder": PREDICTOR, "joint": JOINT, "decoding": decoding, "loss": loss}
    )


CLASSES = {"ctc": EncDecCTCModel, "transducer": EncDecRNNTModel}


def model(folder: Path, kind: str) -> torch.nn.Module:
    """The model of a kind, out of its archive; makes that first where it is missing."""
    path = folder / f"{kind}.nemo"
    if not path.exists():
        torch.manual_seed(0)
        made = CLASSES[kind](cfg=settings(kind))
        made.save_to(str(path))
    return CLASSES[kind].restore_from(str(path), map_location="cpu")


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def train(folder: Path, kind: str) -> Callable[[], int]:
    network = model(folder, kind).train()
    audio, audio_len, targets, target_len = batch()

    def loss() -> torch.Tensor:
        mel, mel_len = network.preprocessor(input_signal=audio, length=audio_len)
        encoded, encoded_len = network.encoder(audio_signal=mel, length=mel_len)
        if kind == "ctc":
            scores = {"log_probs": network.decoder(encoder_output=encoded)}
        else:
            predicted, *_ = network.decoder(targets=targets, target_length=target_len)
            scores = {"log_probs": network.joint(encoder_outputs=encoded, decoder_outputs=predicted)}
        return network.loss(**scores, targets=targets, input_lengths=encoded_len, target_lengths=target_len)

    return descent(network, loss)


def infer(folder: Path, count: int) -> Callable[[], int]:
    network = model(folder, "ctc").eval()
    audio, audio_len = (x[:count] for x in batch()[:2])

    def work() -> int:
        with torch.inference_mode():
            mel, mel_len = network.preprocessor(input_signal=audio, length=audio_len)
            encoded, _ = network.encoder(audio_signal=mel, length=mel_len)
            network.decoder(encoder_output=encoded).argmax(-1)
        return size(network)

    return work


if __name__ == "__main__":
    torch.set_num_threads(2)
    place = Path(sys.argv[1])
    for each in CLASSES:
        model(place, each)
    print("{}", flush=True)
    serve(
        {
            "ctc_train": lambda: train(place, "ctc"),
            "transducer_train": lambda: train(place, "transducer"),
            "ctc_infer": lambda: infer(place, 4),
            "ctc_infer_one": lambda: infer(place, 1),
        }
    )
