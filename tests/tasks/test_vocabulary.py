"""Another vocabulary: tokens of the same spelling score as before."""

import pytest
import torch

from anemone.errors import ConfigError
from anemone.features.tokenizers import BytesConfig, CharactersConfig
from anemone.tasks.vocabulary import regrow, with_tokenizer
from anemone.testing import LETTERS, speech, tiny

AUDIO = torch.from_numpy(speech(0.4))[None], torch.tensor([6400])


def scores(task):
    return task.network(*AUDIO)[0].detach()


def test_a_vocabulary_in_another_order_gives_equal_tokens_equal_log_probabilities():
    task, letters = tiny("recognition"), tuple(reversed(LETTERS))
    turned = with_tokenizer(task, CharactersConfig(characters=letters))
    before, after = scores(task), scores(turned)
    order = [LETTERS.index(letter) for letter in letters] + [len(LETTERS)]
    assert (after - before[..., order]).abs().max() < 1e-6


def test_a_larger_vocabulary_keeps_all_odds_between_old_tokens_and_the_blank():
    task = tiny("recognition")
    more = with_tokenizer(task, CharactersConfig(characters=("é", *LETTERS[::-1], "ß", "ñ")))
    before, after = scores(task), scores(more)
    here = [1 + LETTERS[::-1].index(letter) for letter in LETTERS] + [31]
    kept = after[..., here].log_softmax(-1)
    assert after.shape[-1] == 32 and (kept - before).abs().max() < 1e-5
    weight = more.network.head.linear.weight.detach()
    old = task.network.head.linear.weight.detach()[:28]
    assert 0.4 < weight[[0, 29, 30]].std() / old.std() < 2.5
    assert torch.equal(
        weight,
        with_tokenizer(task, CharactersConfig(characters=("é", *LETTERS[::-1], "ß", "ñ"))).network.head.linear.weight,
    )


def test_sub_words_and_characters_share_what_is_spelt_alike():
    own = {"head.linear.weight": torch.zeros(4, 2), "encoder.weight": torch.zeros(3, 2)}
    tensors = {"head.linear.weight": torch.arange(8.0).view(4, 2), "encoder.weight": torch.ones(3, 2)}
    grown = regrow(tensors, own, [" ", "a", "b"], ["\u2581the", "a", "\u2581"])
    assert grown.shared == 2 and grown.names == ("head.linear.weight",)
    assert grown.tensors["head.linear.weight"][1:].tolist() == [[2, 3], [0, 1], [6, 7]]
    assert grown.tensors["encoder.weight"] is tensors["encoder.weight"]


def test_a_language_model_keeps_embedding_and_head():
    task = tiny("language_modelling")
    pieces = *(task.tokenizer.pieces[i] for i in (97, 98, 32)), "new"
    small = with_tokenizer(task, CharactersConfig(characters=pieces))
    assert torch.equal(small.network.embedding.weight[:3], task.network.embedding.weight[[97, 98, 32]])
    assert small.network.head.weight is small.network.embedding.weight


def test_a_classifier_has_no_vocabulary():
    with pytest.raises(ConfigError, match="`task` must be one with a tokenizer"):
        with_tokenizer(tiny("classification"), BytesConfig())
