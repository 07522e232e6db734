"""Tables between others' archives and ours: names of settings and of tensors, a file for each family.

rules.py      how a table of settings is read: every setting is translated, or refused by name
features.py   preprocessors and SpecAugment
heads.py      decoders, vocabularies and labels
quartznet.py  the convolutional encoder of QuartzNet, MatchboxNet, MarbleNet, Citrinet and Jasper
conformer.py  the encoders of Conformer and FastConformer
transducer.py, attention.py  the decoders of transducers and hybrids, and of Canary
written.py    Conformers and transducers as NeMo writes them down
llama.py, parakeet.py, wav2vec2.py, whisper.py  models of Hugging Face
huggingface.py, byte_bpe.py, sentencepiece.py  what they have alike, and files of tokenizers
"""
