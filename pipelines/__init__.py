"""Whole flows over a host, and the settings that a user can choose.

A file is named after its system, such as :mod:`.exemplar`; where one grew long, its parts stand beside it
(``exemplar_...``). Color memories are asked and written in :mod:`.memory`; what looks at pictures for them is in
:mod:`.memory_features` (a UNet) and :mod:`.encoder_features` (a vision encoder). Colors of an edited copy come back in
:mod:`.transfer`, which no model is needed for. Start at :mod:`.host`,
what a flow asks of a host, and :mod:`.ddcolor`, the shortest flow. Settings are described in :mod:`..settings`.
"""
