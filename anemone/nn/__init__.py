"""Bricks used by two or more models. States are laid out (B, T, D): batch, frames, width; those over text (B, N, D).

encoded.py      what an encoder gives: states and their lengths
activations.py  activations by name
dropout.py      dropout whose random bits are quick to draw on a CPU
depthwise.py    depthwise convolution over time
conv.py         the convolutional block of Jasper, QuartzNet and Citrinet, and a stack of them
squeeze.py      squeeze-and-excitation over time
image.py        convolutions over time and frequency
subsampling.py  from frames of features to fewer, before an encoder of attention
context.py      which frames each frame sees
relative.py     self-attention of encoders: with relative positions, absolute ones, or local
conformer.py    the layer of a Conformer
transformer.py  Transformer blocks with biases, and memory of keys and values
adapters.py     small weights beside large ones: low-rank changes of layers, bottlenecks after modules
heads.py        from encoder states to log-probabilities of labels (CTC) or scores of classes
code_head.py    from encoder states to scores of codes, for pre-training
norm.py         normalisation by root mean square
rotary.py       positions told by rotation
attention.py    attention with its kernels: grouped heads, windows, packed documents, biases
moe.py          mixture of experts: a router, experts side by side, a loss that balances them
"""
