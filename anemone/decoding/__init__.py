"""From log-probabilities to tokens."""

DECODERS = {"ctc_greedy": "anemone.decoding.ctc:CTCGreedyConfig"}
