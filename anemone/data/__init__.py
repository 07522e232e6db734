"""What comes in: manifests become an index, an index a batch plan, a plan micro-batches.

``audio`` decodes recordings, ``manifest`` (with ``jsonlines``) makes the columnar index, ``plan`` says which utterances
go together, ``augment`` changes recordings in training, ``loader`` reads it all, in workers or not, into ``batch``.
"""
