"""L-CAD (Chang et al., NeurIPS 2023): gray encoder and decoder around a UNet of more inputs. Start at :mod:`.load`."""
