"""Models: one file for one architecture, with its config.

A config's ``build`` makes the network: of ``num_features`` for speech, of ``vocab_size`` for text.
"""

MODELS = {
    "quartznet": "anemone.models.speech.quartznet:QuartzNetConfig",
    "matchboxnet": "anemone.models.speech.matchboxnet:MatchboxNetConfig",
    "llama": "anemone.models.text.llama:LlamaConfig",
}
