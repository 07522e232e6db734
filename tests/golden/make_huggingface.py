"""Writes tests/golden/huggingface: tiny models of speech in Hugging Face's layout, and what `transformers` computes.

Run by hand with transformers 5 beside torch, never by the tests: `python tests/golden/make_huggingface.py`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

HOME = Path(__file__).parent / "huggingface"
LETTERS = "ETAOINHSRDLU"
WAV2VEC2 = {
    "vocab_size": 5 + len(LETTERS),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
KINDS = {
    "wav2vec2_base": {},
    "wav2vec2_lv60": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "wav2vec2_mixed": {"do_stable_layer_norm": True, "num_conv_pos_embeddings": 15, "mask_time_prob": 0.0},
}


def shake(model: torch.nn.Module, name: str) -> None:
    """Gives all parameters lively values; an embedding of positions that is not trained keeps its own."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("original0"):
                parameter.copy_(parameter * (1 + 0.2 * noise))
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise + (1.0 if "norm" in key and key.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    model.eval()


def recordings() -> list[np.ndarray]:
    """Three tones in noise, of different lengths."""
    rng = np.random.default_rng(7)
    sound = [np.sin(np.arange(n) * (0.02 + 0.01 * i)) for i, n in enumerate((9_000, 16_000, 5_333))]
    return [(0.3 * tone + 0.05 * rng.standard_normal(len(tone)) + 0.02).astype(np.float32) for tone in sound]


def norms(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The length of each parameter's gradient."""
    return {f"norm {key}": p.grad.norm().numpy() for key, p in model.named_parameters() if p.grad is not None}


def wav2vec2(name: str, settings: dict[str, object]) -> None:
    """Writes a wav2vec 2.0 with CTC."""
    home = HOME / name
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**{**WAV2VEC2, **settings}))
    shake(model, name)
    home.mkdir(parents=True, exist_ok=True)
    vocab = {piece: n for n, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    (home / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(home / "vocab.json", do_lower_case=name == "wav2vec2_lv60")
    extractor = Wav2Vec2FeatureExtractor(
        do_normalize=name != "wav2vec2_mixed", return_attention_mask=name == "wav2vec2_lv60"
    )
    model.save_pretrained(home, max_shard_size="40KB" if name == "wav2vec2_lv60" else "1GB")
    tokenizer.save_pretrained(home)
    extractor.save_pretrained(home)
    kept, texts = {}, []
    for i, sound in enumerate(recordings()):
        values = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_values
        logits = model(values).logits
        kept[f"log_probs {i}"] = logits.log_softmax(-1).detach().numpy()[0]
        texts.append(tokenizer.batch_decode(logits.argmax(-1))[0])
    labels = torch.tensor(tokenizer("tone and noise" if tokenizer.do_lower_case else "TONE AND NOISE").input_ids)
    model(values, labels=labels[None]).loss.backward()
    kept |= norms(model)
    np.savez_compressed(home / "reference.npz", labels=labels.numpy(), texts=np.array(texts), **kept)


def main() -> None:
    """Writes a folder a model, with `reference.npz`."""
    for name, settings in KINDS.items():
        wav2vec2(name, settings)


if __name__ == "__main__":
    main()
