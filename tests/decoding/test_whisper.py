"""Decoding as Whisper's checkpoints ask for it: what may not be written is not, and languages are heard."""

import pytest
import torch

from anemone.config import ConfigError
from anemone.decoding.whisper import WhisperGreedyConfig, told
from anemone.models.speech.attention_decoder import AttentionHeadConfig, TransformerConfig

START, LANGUAGES, END = 0, (1, 2, 3), 11


@pytest.fixture
def head():
    torch.manual_seed(3)
    decoder = TransformerConfig(num_layers=1, num_heads=2, d_hidden=32, activation="gelu", key_bias=False)
    config = AttentionHeadConfig(d_model=16, decoder=decoder, max_len=24, positions="learned", vocab_multiple=1)
    return config.build(16, 12, end=END).eval()


def output(head, prompts):
    x = torch.randn(len(prompts), 20, 16, generator=torch.Generator().manual_seed(5))
    tokens = torch.tensor(prompts)
    lengths = torch.full((len(prompts),), tokens.shape[1])
    with torch.no_grad():
        return head(x, torch.full((len(prompts),), 20), tokens, lengths, lengths)


def decode(head, prompts, **settings):
    return [found.tokens for found in WhisperGreedyConfig(**settings).build(head)(output(head, prompts))]


def test_tokens_that_may_not_be_written_are_not(head):
    plain = decode(head, [[START, 1]] * 3, suppress=(END,))
    never = plain[0][0]
    assert all(never not in tokens for tokens in decode(head, [[START, 1]] * 3, suppress=(never, END)))


def test_some_tokens_are_only_not_written_first(head):
    (plain,) = decode(head, [[START, 1]], suppress=(END,))
    (after,) = decode(head, [[START, 1]], suppress=(END,), suppress_first=(plain[0],))
    assert after[0] != plain[0]


def test_a_language_that_is_not_said_is_heard_and_one_that_is_said_stays(head):
    given = output(head, [[START, START], [START, 3]])
    heard = told(head, given, LANGUAGES).targets
    scores = head.step(head.start(given.x, given.x_len), given.targets[:, :1])[0][:, 0]
    assert heard[0].tolist() == [START, 1 + int(scores[0, 1:4].argmax())]
    assert heard[1].tolist() == [START, 3]
    assert given.targets[0].tolist() == [START, START]


def test_each_answer_is_that_of_the_recording_alone(head):
    whole = output(head, [[START, START]] * 3)
    decoder = WhisperGreedyConfig(languages=LANGUAGES, suppress=(4,)).build(head)
    found = decoder(whole)
    for i in range(3):
        alone = type(whole)(*(field[i : i + 1] for field in whole))
        assert decoder(alone)[0].tokens == found[i].tokens


@pytest.mark.parametrize("name", ["suppress", "suppress_first", "languages"])
def test_tokens_that_there_are_not_are_refused(head, name):
    with pytest.raises(ConfigError, match=f"`{name}` must be tokens below 12, but is 12 instead"):
        WhisperGreedyConfig(**{name: (12,)}).build(head)
    with pytest.raises(ConfigError, match=f"`{name}` must be tokens, 0 or more each"):
        WhisperGreedyConfig(**{name: (-1,)})
