"""Own parts of the embedded model: a text encoder of hashed words, a linear autoencoder. Its UNet is a usual one."""
