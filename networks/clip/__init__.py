"""CLIP's tokenizer, which several systems share (Radford et al., ICML 2021). Start at :mod:`.words`."""
