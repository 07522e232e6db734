"""Make and look at tokenizers.

  anemone tokenizer VERB ...

One file a verb, ``tokenizer_VERB.py``, imported when its verb is asked for.
"""

VERBS = {
    "train": "make a tokenizer of texts or manifests",
}
