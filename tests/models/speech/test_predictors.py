"""Predictors of transducers by their definition: steps, the LSTM of PyTorch, joined tokens, first values."""

import math

import pytest
import torch

from anemone.config import decode, load_class
from anemone.models.speech.predictors import PREDICTORS, LSTMConfig, LSTMPredictor

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
SMALL = {
    "lstm": {"kind": "lstm", "d_model": 8, "num_layers": 2, "dropout": 0.0},
    "projected": {"kind": "lstm", "d_model": 8, "d_cell": 12, "dropout": 0.0},
    "stateless": {"kind": "stateless", "d_model": 8, "context": 3, "normalize": True},
    "bigram": {"kind": "stateless", "d_model": 8, "context": 1},
}
TOKENS = torch.tensor([[1, 4, 2], [0, 3, 0]])


def predictor_of(name):
    settings = dict(SMALL[name])
    return decode(load_class(PREDICTORS[settings.pop("kind")]), settings).build(vocab_size=5).eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_step_at_a_time_gives_what_the_whole_text_gives(name):
    network = predictor_of(name)
    whole, state = network(TOKENS), network.start(2)
    for place, token in enumerate([torch.tensor([5, 5]), *TOKENS.T]):
        said, state = network.step(token, state)
        torch.testing.assert_close(said, whole[:, place], atol=1e-6, rtol=0)


def test_the_lstm_is_that_of_pytorch_over_a_beginning_of_zeros():
    network = predictor_of("projected")
    reference = torch.nn.LSTM(8, 12, proj_size=8, batch_first=True)
    reference.load_state_dict(network.lstm.state_dict())
    embedded = torch.cat([torch.zeros(2, 1, 8), network.embedding(TOKENS)], 1)
    torch.testing.assert_close(network(TOKENS), reference(embedded)[0])


def test_a_stateless_predictor_joins_the_last_tokens():
    network = predictor_of("stateless")
    tables = [table.weight for table in network.embeddings]
    assert [table.shape[1] for table in tables] == [6, 1, 1]
    expected = torch.cat([tables[0][2], tables[1][4], tables[2][1]])  # after 1, 4, 2
    torch.testing.assert_close(network(TOKENS)[0, 3], torch.nn.functional.layer_norm(expected, (8,)))
    assert not network(TOKENS)[:, 0].any()


def test_gates_begin_as_asked():
    gates = slice(8, 16)
    lstm = LSTMConfig(d_model=8, forget_bias=2.0, recurrent_bias_scale=0.5, init_scale=0.5).build(5).lstm
    assert torch.equal(lstm.bias_ih_l0[gates], torch.ones(8)) and lstm.bias_hh_l0[gates].abs().max() < 0.25 / math.sqrt(
        8
    )
    lstm = LSTMConfig(d_model=8, max_memory=20).build(5).lstm
    assert torch.equal(lstm.bias_ih_l0[:8], -lstm.bias_ih_l0[gates]) and not lstm.bias_ih_l0[16:].any()
    assert lstm.bias_ih_l0[gates].min() >= 0 and lstm.bias_ih_l0[gates].max() < math.log(19)


def test_memories_begin_at_random_in_training_where_asked():
    network = LSTMPredictor(5, LSTMConfig(d_model=8, random_start=True, dropout=0.0))
    assert not torch.equal(network(TOKENS), network(TOKENS))
    assert torch.equal(network.eval()(TOKENS), network(TOKENS))
