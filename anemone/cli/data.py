"""Prepare data sets: convert, change, measure and divide them.

  anemone data VERB ...

One file a verb, ``data_VERB.py``, imported when its verb is asked for.
"""

VERBS = {
    "convert": "write a data set in another format",
    "augment": "write changed copies of the recordings of a data set",
    "stats": "measure hours, rates, alphabets and speakers",
    "validate": "look for what is wrong in a data set",
    "filter": "keep the rows of which a condition holds",
    "split": "divide a data set, such as into train and test",
    "shard": "write a data set as tars that are read by offset",
    "label": "write what a model hears in recordings",
    "merge": "write several data sets as one",
    "speech-commands": "make manifests of Google's Speech Commands",
}
