"""Hugging Face's models of speech give what `transformers` gives, and what cannot be had is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import anemone
from anemone.checkpoint.archive import read_archive
from anemone.checkpoint.names import wav2vec2, whisper
from anemone.data.batch import Batch
from anemone.data.targets import Target
from anemone.errors import ArchiveError

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface"
WAV2VEC2 = ("wav2vec2_base", "wav2vec2_lv60", "wav2vec2_mixed")
CLOSE = {"rtol": 0, "atol": 2e-5}


def recordings():
    """As `tests/golden/make_huggingface.py` makes them."""
    rng = np.random.default_rng(7)
    sound = [np.sin(np.arange(n) * (0.02 + 0.01 * i)) for i, n in enumerate((9_000, 16_000, 5_333))]
    return [(0.3 * tone + 0.05 * rng.standard_normal(len(tone)) + 0.02).astype(np.float32) for tone in sound]


def reference(name):
    return dict(np.load(GOLDEN / name / "reference.npz"))


def batch(sounds):
    x = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(sound) for sound in sounds], batch_first=True)
    return x, torch.tensor([len(sound) for sound in sounds])


@pytest.fixture
def changed(tmp_path):
    """Copies a golden folder, with other settings."""

    def change(name, file="config.json", **settings):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder)
        tree = json.loads((folder / file).read_text("utf-8")) | settings
        (folder / file).write_text(json.dumps(tree), "utf-8")
        return folder

    return change


# --- wav2vec 2.0 ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", WAV2VEC2)
def test_wav2vec2_gives_the_log_probabilities_of_each_recording_also_in_a_batch(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    x, x_len = task(*batch(recordings()))[:2]
    for i, frames in enumerate(x_len.tolist()):
        theirs = torch.from_numpy(want[f"log_probs {i}"])
        theirs = torch.cat([theirs[:, 1:], theirs[:, :1]], 1)  # their blank is the first label
        torch.testing.assert_close(x[i, :frames], theirs, **CLOSE)


@pytest.mark.parametrize("name", WAV2VEC2)
def test_wav2vec2_writes_the_same_text(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    found = [transcript.text for transcript in task.transcribe([(sound, 16_000) for sound in recordings()])]
    assert found == want["texts"].tolist()
    text = "tone and noise" if name == "wav2vec2_lv60" else "TONE AND NOISE"
    assert task.encode(text) == [number - 1 for number in want["labels"].tolist()]


@pytest.mark.parametrize("name", WAV2VEC2)
def test_wav2vec2_learns_as_theirs_does(name):
    """Gradients of the summed CTC loss have the lengths that `transformers` gives them."""
    task, want = anemone.load(GOLDEN / name), reference(name)
    audio, audio_len = batch(recordings()[2:])
    log_probs, frames = task(audio, audio_len)[:2]
    labels = torch.from_numpy(want["labels"])[None] - 1
    loss = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), labels, frames, torch.tensor([labels.shape[1]]), blank=16, reduction="sum"
    )
    loss.backward()
    names = wav2vec2.tensor_names(read_archive(GOLDEN / name).config["model"])
    parameters = dict(task.network.named_parameters())
    assert set(parameters) == set(names)
    for ours, theirs in names.items():
        if f"norm {theirs}" in want:
            torch.testing.assert_close(
                parameters[ours].grad.norm(), torch.tensor(want[f"norm {theirs}"]), rtol=1e-3, atol=1e-4, msg=ours
            )


def test_old_names_of_the_weights_of_positions_are_read(changed):
    folder = changed("wav2vec2_base")
    tensors = load_file(folder / "model.safetensors")
    place = "wav2vec2.encoder.pos_conv_embed.conv."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        tensors[place + old] = tensors.pop(f"{place}parametrizations.weight.{new}")
    save_file(tensors, folder / "model.safetensors")
    old, new = read_archive(folder).tensors, read_archive(GOLDEN / "wav2vec2_base").tensors
    assert set(old) == set(new)
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_an_archive_of_it_is_the_same_recogniser(tmp_path):
    task = anemone.load(GOLDEN / "wav2vec2_lv60")
    anemone.save(task, tmp_path / "copy.anemone")
    again = anemone.load(tmp_path / "copy.anemone")
    sounds = [(sound, 16_000) for sound in recordings()]
    assert again.transcribe(sounds) == task.transcribe(sounds)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"hidden_act": "relu"}, "`config.json.hidden_act` must be 'gelu' to be read, but is 'relu'"),
        ("config.json", {"add_adapter": True}, "`config.json.add_adapter` must be False to be read, but is True"),
        ("config.json", {"adapter_attn_dim": 16}, "`config.json.adapter_attn_dim` must be None to be read, but is 16"),
        ("config.json", {"hiden_size": 24}, "`config.json.hiden_size` is not a setting that can be read"),
        ("config.json", {"hidden_size": -1}, "`config.json.hidden_size` cannot be read: -1: must be a whole number"),
        ("config.json", {"conv_dim": 8}, "`config.json.conv_dim` cannot be read: 8: must be a list of whole numbers"),
        (
            "config.json",
            {"conv_dim": [8] * 6},
            "does not ask for: `wav2vec2.feature_extractor.conv_layers.6.conv.weight`",
        ),
        ("config.json", {"feat_extract_norm": "batch"}, "`config.json.feat_extract_norm` cannot be read: 'batch'"),
        ("config.json", {"num_hidden_layers": 10**9}, "`config.json.num_hidden_layers` cannot be read"),
        ("config.json", {"num_hidden_layers": 3}, "lacks `wav2vec2.encoder.layers.2"),
        ("config.json", {"num_hidden_layers": 1}, "has tensors that `config.json` does not ask for: `wav2vec2.encoder"),
        ("config.json", {"hidden_size": 20}, r"must be \[20.*but is \[24"),
        ("config.json", {"pad_token_id": 3}, "`pad_token_id` must be the number of '<pad>', 0, but is 3 instead"),
        ("config.json", {"vocab_size": 12}, "`vocab.json` must have numbers below `vocab_size`, 12, but has 16"),
        ("config.json", {"architectures": ["Wav2Vec2ForPreTraining"]}, "must be Wav2Vec2ForCTC to be read"),
        ("config.json", {"model_type": "wav2vec"}, "`.*model_type` must be one of .*Did you mean `wav2vec2`"),
        ("config.json", {"model_type": "llama"}, "Turn it into an archive: `anemone convert FOLDER NAME.anemone`"),
        ("preprocessor_config.json", {"sampling_rate": "16k"}, "`preprocessor_config.json.sampling_rate` cannot be"),
        ("vocab.json", {"A": "seven"}, "vocab.json` must give the number of each character"),
        ("vocab.json", {"A": 5}, "`vocab.json` must give each character a number of its own"),
    ],
)
def test_what_cannot_be_had_of_wav2vec2_is_refused_by_name(changed, file, settings, message):
    with pytest.raises(ArchiveError, match=message):
        anemone.load(changed("wav2vec2_base", file, **settings))


def test_pickles_are_refused_with_a_way_out(changed):
    folder = changed("wav2vec2_base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArchiveError, match=r"`pytorch_model.bin` is not read, as .* `model.save_pretrained\(folder"):
        anemone.load(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"model_type": null}'])
def test_settings_that_are_none_are_refused(changed, text):
    folder = changed("wav2vec2_base")
    (folder / "config.json").write_text(text, "utf-8")
    with pytest.raises(ArchiveError, match=r"config.json"):
        anemone.load(folder)


# --- Parakeet ---------------------------------------------------------------------------------------------------------

PARAKEETS = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")


@torch.no_grad()
@pytest.mark.parametrize("name", PARAKEETS)
def test_parakeet_gives_the_states_of_a_padded_batch(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    features = task.network.features(*batch(recordings()))
    x, x_len = task.network.encoder(*features)[:2]
    assert x_len.tolist() == want["frames"].tolist()
    for i, n in enumerate(x_len.tolist()):
        torch.testing.assert_close(x[i, :n], torch.from_numpy(want["states"][i, :n]), **CLOSE)


@torch.no_grad()
def test_parakeet_gives_log_probabilities_of_labels():
    task, want = anemone.load(GOLDEN / "parakeet_ctc"), reference("parakeet_ctc")
    x, x_len = task(*batch(recordings()))[:2]
    for i, n in enumerate(x_len.tolist()):
        torch.testing.assert_close(x[i, :n], torch.from_numpy(want["log_probs"][i, :n]), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("name", PARAKEETS[1:])
def test_parakeet_gives_the_scores_of_the_joint(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    text = torch.from_numpy(want["text_ids"])[None].expand(3, -1)
    out = task.network(*batch(recordings()), text, torch.full((3,), text.shape[1]))
    scores = task.network.head.joint(out.x[:, :6, None] + out.predicted[:, None])
    for i, n in enumerate(out.x_len.tolist()):
        torch.testing.assert_close(scores[i, :n], torch.from_numpy(want["logits"][i, :n]), **CLOSE)


@pytest.mark.parametrize("name", PARAKEETS)
def test_parakeet_writes_the_same_text_and_cuts_texts_alike(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    found = [transcript.text for transcript in task.transcribe([(sound, 16_000) for sound in recordings()])]
    assert found == want["texts"].tolist()
    assert task.encode(str(want["text"])) == want["text_ids"].tolist()


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"encoder_config": {"hidden_act": "relu"}}, "encoder_config.hidden_act` must be 'silu'"),
        ("config.json", {"encoder_config": {"num_layers": 2}}, "encoder_config.num_layers` is not a setting"),
        ("config.json", {"encoder_config": 3}, "encoder_config` must be a group of settings, but is 3 instead"),
        ("config.json", {"durations": [0, -1]}, "`config.json.durations` cannot be read: .*whole numbers"),
        ("config.json", {"blank_token_id": 3}, "the blank must be the last of 65 labels to be read, but is 3"),
        ("config.json", {"hidden_act": "gelu"}, "`config.json.hidden_act` cannot be read: 'gelu'"),
        ("preprocessor_config.json", {"feature_size": 80}, "num_mel_bins`, 24, must be `feature_size`, 80"),
        ("tokenizer.json", {"model": {"type": "WordLevel"}}, "`tokenizer.json: model.type` must be BPE or Unigram"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": "b"}}}, "vocab` must give each piece a number"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer` must be Metaspace"),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Lowercase"}},
            "normalizer` has .*Lowercase.*, which cannot be read",
        ),
        ("tokenizer.json", {"added_tokens": [{"id": "a"}]}, "added_tokens` must have `id` and `content`"),
    ],
)
def test_what_cannot_be_had_of_parakeet_is_refused_by_name(changed, file, settings, message):
    with pytest.raises(ArchiveError, match=message):
        anemone.load(changed("parakeet_tdt", file, **settings))


def test_merges_that_are_not_those_of_sentencepiece_are_refused(changed):
    folder = changed("parakeet_ctc")
    tree = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    longest = max(tree["model"]["merges"], key=lambda pair: len("".join(pair)))
    tree["model"]["merges"] = [pair for pair in tree["model"]["merges"] if pair != longest]
    tree["model"]["merges"].append(["a", "zz"])
    (folder / "tokenizer.json").write_text(json.dumps(tree), "utf-8")
    with pytest.raises(ArchiveError, match=r"`tokenizer.json: model.merges` must join pieces to pieces, but has"):
        anemone.load(folder)


# --- Whisper ----------------------------------------------------------------------------------------------------------

WHISPERS = ("whisper", "whisper_english")


@torch.no_grad()
@pytest.mark.parametrize("name", WHISPERS)
def test_whisper_gives_the_states_and_log_probabilities(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    tokens = torch.from_numpy(want["tokens"])
    lengths = torch.full((3,), tokens.shape[1])
    out = task.network(*batch(recordings()), tokens, lengths, lengths)
    torch.testing.assert_close(out.x, torch.from_numpy(want["states"]), **CLOSE)
    torch.testing.assert_close(out.log_probs, torch.from_numpy(want["log_probs"]), **CLOSE)


@pytest.mark.parametrize("name", WHISPERS)
def test_whisper_learns_as_theirs_does(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    tokens = torch.from_numpy(want["tokens"])
    lengths = torch.full((3,), tokens.shape[1])
    out = task.network(*batch(recordings()), tokens, lengths, lengths)
    torch.nn.functional.nll_loss(
        out.log_probs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    ).backward()
    names = whisper.tensor_names(2, 1)
    parameters = dict(task.network.named_parameters())
    assert set(parameters) == set(names)
    for ours, theirs in names.items():
        if parameters[ours].requires_grad:
            norm = torch.tensor(want[f"norm {theirs}"])
            torch.testing.assert_close(parameters[ours].grad.norm(), norm, rtol=1e-3, atol=1e-4, msg=ours)


@pytest.mark.parametrize(
    ("name", "key", "asked"),
    [
        ("whisper", "default", {}),
        ("whisper", "fr", {"language": "fr"}),
        ("whisper", "de", {"language": "de", "slots": {"task": "translate"}}),
        ("whisper_english", "default", {}),
    ],
)
def test_whisper_writes_the_same_text(name, key, asked):
    """Without a language, it is heard; tokens that `generation_config.json` suppresses are not written."""
    task, want = anemone.load(GOLDEN / name), reference(name)
    sounds = [(sound, 16_000) for sound in recordings()]
    want_texts = want[f"texts {key}"].tolist()
    assert [found.text for found in task.transcribe(sounds, **asked)] == want_texts
    assert [found.text for found in task.transcribe(sounds, batch_size=1, **asked)] == want_texts


@pytest.mark.parametrize("name", WHISPERS)
def test_whisper_cuts_texts_alike_and_reads_them_back(name):
    task, want = anemone.load(GOLDEN / name), reference(name)
    text = str(want["text"])
    target = task.encode.of(text, {"lang": "fr"} if name == "whisper" else {})
    prompt = ["<|startoftranscript|>", *(["<|fr|>", "<|transcribe|>"] if name == "whisper" else []), "<|notimestamps|>"]
    assert [task.tokenizer.pieces[token] for token in target.tokens[: target.prompt_len]] == prompt
    assert target.tokens[target.prompt_len : -1] == want["text_ids"].tolist()
    assert task.tokenizer.pieces[target.tokens[-1]] == "<|endoftext|>"
    assert task.tokenizer.decode(target.tokens) == text


def test_an_archive_of_whisper_is_the_same_recogniser(tmp_path):
    task = anemone.load(GOLDEN / "whisper")
    anemone.save(task, tmp_path / "copy.anemone")
    sounds = [(sound, 16_000) for sound in recordings()]
    assert anemone.load(tmp_path / "copy.anemone").transcribe(sounds) == task.transcribe(sounds)


def test_whisper_hears_no_more_than_its_half_minute():
    with pytest.raises(anemone.AnemoneError, match=r"must have at most 1 seconds, .* but one has 1.5 instead"):
        anemone.load(GOLDEN / "whisper").transcribe([(np.zeros(24_000, np.float32), 16_000)])


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"activation_function": "relu"}, "`config.json.activation_function` must be 'gelu' to be read"),
        ("config.json", {"scale_embedding": True}, "`config.json.scale_embedding` must be False to be read"),
        ("config.json", {"encoder_layer": 2}, "`config.json.encoder_layer` is not a setting that can be read"),
        ("config.json", {"num_mel_bins": 80}, "num_mel_bins`, 80, must be `feature_size`, 20"),
        ("config.json", {"vocab_size": 100}, "must have numbers below `vocab_size`, 100, but has 280"),
        ("config.json", {"architectures": ["WhisperModel"]}, "must be WhisperForConditionalGeneration to be read"),
        ("config.json", {"decoder_layers": 2}, "lacks `model.decoder.layers.1"),
        ("generation_config.json", {"suppress_tokens": [-1]}, "suppress_tokens` cannot be read"),
        (
            "generation_config.json",
            {"suppress_tokens": [999]},
            "`decoding.suppress` must be tokens below|`suppress` must",
        ),
        ("generation_config.json", {"lang_to_id": {"<|en|>": 3}}, "lang_to_id` must give the number of each token"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "normalizer` must be null to be read"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer.type` must be 'ByteLevel'"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "with a unit for each byte"),
        ("tokenizer.json", {"added_tokens": 3}, "added_tokens` must be a list of tokens"),
        ("tokenizer.json", {"added_tokens": []}, "must have the token `<.startoftranscript.>`, which it lacks"),
        ("preprocessor_config.json", {"chunk_length": 0}, "`features.seconds` must be above 0"),
    ],
)
def test_what_cannot_be_had_of_whisper_is_refused_by_name(changed, file, settings, message):
    with pytest.raises(ArchiveError, match=message):
        anemone.load(changed("whisper", file, **settings))


# --- learning on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"), [("wav2vec2_lv60", "tone and noise"), ("whisper", "the noise"), ("parakeet_tdt", "the tone")]
)
def test_it_learns_on_from_there(name, text):
    """The task's own loss, from what the task makes of a row, falls; what is not to be trained stays."""
    torch.manual_seed(1)
    task = anemone.load(GOLDEN / name).eval()
    row = {"lang": "en"} if name == "whisper" else {}
    target = task.encode.of(text, row) if name == "whisper" else Target(task.encode(text), 0)
    audio, audio_len = batch(recordings()[:2])
    targets = torch.tensor([target.tokens] * 2)
    made = Batch(
        audio=audio,
        audio_len=audio_len,
        targets=targets,
        target_len=torch.full((2,), targets.shape[1]),
        rows=torch.arange(2),
        prompt_len=torch.full((2,), target.prompt_len),
    )
    optimizer = torch.optim.Adam((p for p in task.parameters() if p.requires_grad), lr=0.003)
    losses = []
    for _ in range(12):
        total, count = task.loss(made)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
        losses.append(float(total.detach() / count))
    assert losses[-1] < 0.8 * losses[0]
