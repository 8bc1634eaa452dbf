"""Training of the parts of RAG models, with PyTorch: losses, a dual encoder, a generator that sees, and their data."""
