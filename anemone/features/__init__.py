"""What a model sees: spectral features of speech, their augmentation, and the units of text.

`LogMel` and `MFCC` turn waveforms (B, S) into features (B, F, T); `SpecAugment` hides parts of them in training; a
tokenizer turns text into numbers and back.
"""

FEATURES = {
    "given": "anemone.features.given:GivenConfig",
    "log_mel": "anemone.features.mel:LogMelConfig",
    "mfcc": "anemone.features.mfcc:MFCCConfig",
    "waveform": "anemone.features.waveform:WaveformConfig",
    "whisper_mel": "anemone.features.whisper_mel:WhisperMelConfig",
}
