"""Color memories: what places of pictures look like to some network, and which color they have. Tensors only.

Start at :mod:`.entries`: what a memory holds. :mod:`.features` says what a network gives of a picture, and is the one
protocol by which networks plug in. A memory is written by :mod:`.writing` (reference pictures), :mod:`.strokes` (marks
on the very picture) and :mod:`.palette` (colors without places), and merged; :mod:`.keys` stores keys in fewer bits.
:mod:`.lookup` asks it: color, how sure it is, and where it comes from, with no map of queries x keys;
:mod:`.agreement` asks once more where sources should agree.
"""
