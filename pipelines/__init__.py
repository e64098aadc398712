"""Whole flows over a host: what the one-node versions and the command line run."""
