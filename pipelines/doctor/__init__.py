"""The doctor: what a machine, the pack's own files and a user's checkpoint do, each beside what is expected.

Start at :mod:`.checks` (a check as a value, and how they are gone through) and :mod:`.report` (table, picture, JSON).
:mod:`.machine` is what is looked at without any model, :mod:`.embedded` every system on the files that come with the
pack, held against numbers that were recorded (:mod:`.expected`), :mod:`.checkpoint` a Stable Diffusion of the user's,
:mod:`.networks` DDColor, L-CAD and DEADiff of theirs. Hosts give models and what only they know (:mod:`.subjects`).
"""
