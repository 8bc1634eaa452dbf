"""The command ``rag-infer``: one file per verb."""
