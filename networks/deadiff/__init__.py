"""DEADiff (Qi et al., CVPR 2024): a reference as image tokens. Start at :mod:`.load`."""
