"""Bricks used by two or more models. States are laid out (B, T, D): batch, frames, width; those over text (B, N, D).

encoded.py    what an encoder gives: states and their lengths
depthwise.py  depthwise convolution over time
conv.py       the convolutional block of Jasper and QuartzNet, and a stack of them
heads.py      from encoder states to log-probabilities of labels (CTC) or scores of classes
norm.py       normalisation by root mean square
rotary.py     positions told by rotation
attention.py  attention with its kernels: grouped heads, windows, packed documents, biases
moe.py        mixture of experts: a router, experts side by side, a loss that balances them
"""
