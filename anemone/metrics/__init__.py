"""How good a model is. Every metric has a state that adds over batches and ranks, and a value made of the sum."""
