"""Room: names."""
