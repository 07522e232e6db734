"""Another vocabulary: tokens of the same spelling score as before."""

import pytest
import torch

from anemone import tasks
from anemone.errors import ConfigError
from anemone.features.tokenizers import BytesConfig, CharactersConfig
from anemone.tasks.vocabulary import regrow, with_tokenizer
from anemone.testing import LETTERS, SMALL_NET, speech, tiny

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


HEADS = {
    "transducer": {"predictor": {"kind": "lstm", "d_model": 8}},
    "stateless": {"predictor": {"kind": "stateless", "d_model": 8}},
    "tdt": {"durations": [0, 1, 2], "predictor": {"kind": "lstm", "d_model": 8}},
    "multi_blank": {"big_blanks": [2, 4], "predictor": {"kind": "lstm", "d_model": 8}},
    "hybrid": {"predictor": {"kind": "lstm", "d_model": 8}},
    "attention": {"d_model": 16, "decoder": {"num_layers": 1, "num_heads": 2, "d_hidden": 16}},
}


def headed(kind, letters):
    settings = {"kind": kind if kind in ("hybrid", "attention") else "transducer", **HEADS[kind]}
    settings |= {"d_joint": 8} if kind != "attention" else {}
    task = {"kind": "recognition", "tokenizer": {"kind": "characters", "characters": [*letters]}, "head": settings}
    task |= {"prompt": {"format": "canary", "grow": True}} if kind == "attention" else {}
    features = {"kind": "log_mel", "num_mels": 32}
    torch.manual_seed(0)
    return tasks.rebuild({"task": task, "model": SMALL_NET, "features": features}).eval()


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_scores_shared_tokens_as_before(kind):
    """Whatever depends on the vocabulary, in shape or in the order of tokens, is known to the tables."""
    task, letters = headed(kind, LETTERS), ("é", *LETTERS[::-1])
    more = with_tokenizer(task, CharactersConfig(characters=letters))
    before, after = (t.tokenizer.pieces for t in (task, more))
    here = [after.index(piece) for piece in before]
    targets = torch.tensor([[3, 8, 1]])
    mapped = torch.tensor([[here[number] for number in targets[0]]])
    out = []
    for recogniser, ids in ((task, targets), (more, mapped)):
        further = {"targets": ids, "target_len": torch.tensor([3])}
        further |= {"prompt_len": torch.tensor([0])} if kind == "attention" else {}
        given = recogniser.network(*AUDIO, **further)
        if kind == "attention":
            out.append(given.log_probs)
            continue
        out.append(recogniser.network.head.joint(given.x[:, :, None] + given.predicted[:, None]))
    rest = out[0].shape[-1] - len(before) if kind != "attention" else 0
    order = here + [len(after) + number for number in range(rest)]
    old, new = out[0][..., : len(before) + rest], out[1][..., order]
    assert (old.log_softmax(-1) - new.log_softmax(-1)).abs().max() < 1e-5


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
