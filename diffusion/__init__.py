"""Noise levels, and what walks along them: plain functions over a denoiser ``(x, sigma) -> x0``.

Start at :mod:`.schedule` (grids, plans, scales) and :mod:`.sampling` (the loops). :mod:`.inversion` is what an
inversion hands on; :mod:`.pivot` and :mod:`.concept` learn through a frozen model, with :mod:`.learning` between them;
:mod:`.replay` takes a stream from an inversion. Levels are compared in :mod:`.levels` and nowhere else.
"""
