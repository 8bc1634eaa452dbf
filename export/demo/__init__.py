"""The demonstration: real models and ten thousand real articles, from download to answers.

Run by ``make demo`` as ``python -m rag_infer.export.demo``; ``--until sources|corpus|bundle|kb`` stops early.
"""
