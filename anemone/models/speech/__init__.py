"""Models of speech, from features (B, F, T) to states (B, T', D)."""
