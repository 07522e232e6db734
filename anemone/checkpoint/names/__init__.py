"""Tables between others' archives and ours: names of settings and of tensors, a file for each family.

rules.py      how a table of settings is read: every setting is translated, or refused by name
features.py   preprocessors and SpecAugment
heads.py      decoders, vocabularies and labels
quartznet.py  the convolutional encoder of QuartzNet, MatchboxNet and MarbleNet
conformer.py  the encoders of Conformer and FastConformer
llama.py      Llama, Mistral and Mixtral of Hugging Face
"""
