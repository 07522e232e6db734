"""Kaldi, both ways: data directories, matrices in arks, and training on the features in them.

``places`` reads tables and says where things lie, ``matrices`` what they hold, ``cmvn`` normalises; ``folder`` reads a
data directory as utterances, ``write`` makes one and ``check`` applies Kaldi's own rules to it. ``dataset`` and
``loader`` train a model straight from ``feats.scp``.
"""
