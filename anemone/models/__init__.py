"""Models: one file for one architecture, with its config. A config's ``build(num_features)`` makes the encoder."""

MODELS = {
    "quartznet": "anemone.models.speech.quartznet:QuartzNetConfig",
    "matchboxnet": "anemone.models.speech.matchboxnet:MatchboxNetConfig",
}
