"""Architectures written for the decoder graph, one module each."""
