"""How good the answers are: question sets, metrics, and the run that joins them."""
