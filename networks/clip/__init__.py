"""What several systems share of CLIP (Radford et al., ICML 2021): its tokenizer, :mod:`.words`, and :mod:`.sizes`."""
