"""anemone."""
