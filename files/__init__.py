"""What is read from disk and written to it, and how it is checked. Weights are plain tensors, never code.

Start at :mod:`.tensors` (weights from one file or a folder) and :mod:`.pictures`. :mod:`.headers` reads what a file
says of itself, its recommended settings among it; :mod:`.ldm` reads sizes off checkpoints in LDM naming;
:mod:`.embeddings` keeps learned word vectors.
"""
