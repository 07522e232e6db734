"""Training on many devices, in plain PyTorch: one mesh, and one function that lays a network out over it."""
