"""One file for each question asked of the speed; run as ``python -m benchmarks.bench_topk``."""
