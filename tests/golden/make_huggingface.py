"""Writes tests/golden/huggingface: tiny models of speech in Hugging Face's layout, and what `transformers` computes.

Run by hand with transformers 5, sentencepiece and protobuf beside torch, never by the tests:
`python tests/golden/make_huggingface.py`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceTrainer
from transformers import (
    AddedToken,
    GenerationConfig,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
    ParakeetTokenizer,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import ParakeetConverter

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
    torch.manual_seed(1)
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


TEXT = """the tone and the noise are three tones in a row; a noise is no tone, and none is heard at all
The sentence says what it is: Nine Tones, ten noises, 12 rows! Is that so? It is so."""
PIECES = 64
SIZE = 1 + PIECES
PARAKEET = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "subsampling_conv_channels": 6,
    "num_mel_bins": 24,
}
TRANSDUCER = {"decoder_hidden_size": 20, "blank_token_id": PIECES, "vocab_size": SIZE, "max_symbols_per_step": 3}
PARAKEETS = {
    "parakeet_ctc": (ParakeetForCTC, ParakeetCTCConfig, {"vocab_size": SIZE, "pad_token_id": PIECES}),
    "parakeet_rnnt": (ParakeetForRNNT, ParakeetRNNTConfig, {**TRANSDUCER, "num_decoder_layers": 1}),
    "parakeet_tdt": (ParakeetForTDT, ParakeetTDTConfig, {**TRANSDUCER, "durations": [0, 1, 2, 3]}),
}


def pieces(home: Path, blank: str) -> ParakeetTokenizer:
    """A tokenizer of sub-words, with the blank after the last."""
    source, model = home / "text.txt", home / "spm"
    source.write_text(TEXT, "utf-8")
    SentencePieceTrainer.train(
        input=str(source), model_prefix=str(model), vocab_size=PIECES, model_type="bpe", hard_vocab_limit=True,
        normalization_rule_name="identity", bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    converted = ParakeetConverter(str(model) + ".model").converted()
    for path in (source, home / "spm.model", home / "spm.vocab"):
        path.unlink()
    return ParakeetTokenizer(tokenizer_object=converted, unk_token="<unk>", pad_token=blank)


def parakeet(name: str) -> None:
    """Writes a FastConformer with CTC or a transducer."""
    home = HOME / name
    home.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    cls, config, settings = PARAKEETS[name]
    bias = name != "parakeet_rnnt"
    encoder = {**PARAKEET, "attention_bias": bias, "convolution_bias": bias, "scale_input": name != "parakeet_tdt"}
    model = cls(config(**settings, encoder_config=encoder))
    shake(model, name)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.copy_(buffer + 0.1 * torch.arange(len(buffer)) / len(buffer))
    tokenizer = pieces(home, "<pad>" if name == "parakeet_ctc" else "<blank>")
    extractor = ParakeetFeatureExtractor(feature_size=PARAKEET["num_mel_bins"])
    for part in (model, tokenizer, extractor):
        part.save_pretrained(home)
    (home / "generation_config.json").unlink(missing_ok=True)
    inputs = extractor(recordings(), sampling_rate=16_000, return_tensors="pt")
    text = "the noise, then a tone."
    kept = {"text_ids": np.array(tokenizer(text).input_ids)}
    with torch.no_grad():
        kept["states"] = model.encoder(**inputs).last_hidden_state.numpy()
        kept["frames"] = model.encoder(**inputs).attention_mask.sum(-1).numpy()
        if name == "parakeet_ctc":
            kept["log_probs"] = model(**inputs).logits.log_softmax(-1).numpy()
            found = model.generate(**inputs)
            texts = tokenizer.batch_decode(found, skip_special_tokens=True)
        else:
            tokens = torch.tensor([[PIECES, *kept["text_ids"]]] * 3)
            kept["logits"] = model(**inputs, decoder_input_ids=tokens).logits[:, :6].numpy()
            texts = []
            for sound in recordings():
                inputs = extractor(sound, sampling_rate=16_000, return_tensors="pt")
                found = (
                    model.generate(**inputs, decoder_start_token_id=PIECES, max_new_tokens=200).sequences[0].tolist()
                )
                texts.append(tokenizer.decode([token for token in found if token != PIECES], group_tokens=False))
    np.savez_compressed(home / "reference.npz", texts=np.array(texts), text=np.array(text), **kept)


MERGES = [
    "t h",
    "Ġ t",
    "Ġt h",
    "e r",
    "o n",
    "i n",
    "Ġth e",
    "n o",
    "no i",
    "s e",
    "noi se",
    "Ġ on",
    "on e",
    "l l",
    "ll l",
]
LANGUAGES = ("en", "fr", "de")
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 20,
    "max_source_positions": 50,
    "max_target_positions": 24,
}


def visible() -> list[str]:
    """The signs that stand for bytes in a vocabulary."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + hidden.index(byte)) for byte in range(256)]


def whisper(name: str) -> None:
    """Writes a Whisper: of several languages with `tokenizer.json`, or of English with the older files."""
    home, many = HOME / name, name == "whisper"
    home.mkdir(parents=True, exist_ok=True)
    units = [*visible(), *("".join(pair.split()) for pair in MERGES)]
    marks = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES if many)]
    marks += [*(["<|translate|>", "<|transcribe|>"] if many else []), "<|notimestamps|>"]
    times = ["<|0.00|>", "<|0.02|>"]
    numbers = {text: n for n, text in enumerate([*units, *marks, *times])}
    size = len(numbers) + (1 if many else 0)  # one that nothing has
    torch.manual_seed(1)
    ends = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), numbers["<|endoftext|>"])
    start = {"decoder_start_token_id": numbers["<|startoftranscript|>"], **ends}
    model = WhisperForConditionalGeneration(WhisperConfig(**WHISPER, vocab_size=size, **start))
    shake(model, name)
    tokenizer = WhisperTokenizer(
        {text: n for text, n in numbers.items() if text in units}, [tuple(m.split()) for m in MERGES]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in times])
    model.generation_config = GenerationConfig(
        **start,
        max_length=24,
        suppress_tokens=[5, 6, *([numbers["<|transcribe|>"]] if many else [])],
        begin_suppress_tokens=[220, numbers["<|endoftext|>"]],
        no_timestamps_token_id=numbers["<|notimestamps|>"],
        is_multilingual=many,
        forced_decoder_ids=[[1, None], [2, numbers["<|transcribe|>"]]] if many else None,
        return_timestamps=False,
    )
    if many:
        model.generation_config.lang_to_id = {f"<|{code}|>": numbers[f"<|{code}|>"] for code in LANGUAGES}
        model.generation_config.task_to_id = {task: numbers[f"<|{task}|>"] for task in ("translate", "transcribe")}
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    for part in (model, tokenizer, extractor):
        part.save_pretrained(home)
    if not many:
        tokenizer.save_vocabulary(home)
        (home / "tokenizer.json").unlink()
        (home / "tokenizer_config.json").unlink()
        added = {text: n for text, n in numbers.items() if text in (*marks, *times)}
        (home / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    features = extractor(recordings(), sampling_rate=16_000, return_tensors="pt").input_features
    tokens = torch.tensor([[numbers[mark] for mark in marks[1:3]] + [60, 70, 257, 80]] * 3)
    kept = {"states": model.model.encoder(features).last_hidden_state.detach().numpy(), "tokens": tokens.numpy()}
    logits = model(features, decoder_input_ids=tokens).logits
    kept["log_probs"] = logits.log_softmax(-1).detach().numpy()
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    asked = {"fr": {"language": "fr"}, "de": {"language": "german", "task": "translate"}} if many else {}
    for key, options in {"default": {}, **asked}.items():
        found = model.generate(features, **options)
        kept[f"texts {key}"] = np.array(tokenizer.batch_decode(found, skip_special_tokens=True))
    text = "the noise; then a tone, 12 thirds.  It's fine"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    np.savez_compressed(home / "reference.npz", text=np.array(text), text_ids=np.array(ids), **kept, **norms(model))


def main() -> None:
    """Writes a folder a model, with `reference.npz`."""
    for name in ("whisper", "whisper_english"):
        whisper(name)
    for name in PARAKEETS:
        parakeet(name)
    for name, settings in KINDS.items():
        wav2vec2(name, settings)


if __name__ == "__main__":
    main()
