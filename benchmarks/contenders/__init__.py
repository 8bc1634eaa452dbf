"""The programs that are compared, each in a process and an environment of its own.

A contender builds what it needs, then calls `serve.serve` with what is timed. The peers' environment has no rag_infer:
their modules import nothing from it.
"""
