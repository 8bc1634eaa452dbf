"""Token by token: decoders, searches over sequences, constraints on tokens."""
