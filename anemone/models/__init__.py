"""Models: one file for one architecture, with its config.

A config's ``build`` makes the network: of ``num_features`` for speech, of ``vocab_size`` for text. A recogniser's head
is made by ``build(d_model, vocab_size)``; its config names the ``losses`` and ``decodings`` that fit it, the usual one
first. A head that learns from the text has the ports ``targets`` and ``target_len``; an empty text stands for none.
"""

MODELS = {
    "quartznet": "anemone.models.speech.quartznet:QuartzNetConfig",
    "matchboxnet": "anemone.models.speech.matchboxnet:MatchboxNetConfig",
    "conformer": "anemone.models.speech.conformer:ConformerConfig",
    "fastconformer": "anemone.models.speech.fastconformer:FastConformerConfig",
    "citrinet": "anemone.models.speech.citrinet:CitrinetConfig",
    "jasper": "anemone.models.speech.jasper:JasperConfig",
    "wav2vec2": "anemone.models.speech.wav2vec2:Wav2Vec2Config",
    "whisper": "anemone.models.speech.whisper:WhisperConfig",
    "llama": "anemone.models.text.llama:LlamaConfig",
}

HEADS = {
    "attention": "anemone.models.speech.attention_decoder:AttentionHeadConfig",
    "ctc": "anemone.models.speech.ctc:CTCHeadConfig",
    "hybrid": "anemone.models.speech.transducer:HybridConfig",
    "transducer": "anemone.models.speech.transducer:TransducerConfig",
}
"""What stands on the encoder of a recogniser."""
