"""The knowledge base: passages, their vectors, and the search over them.

The SQLite record says what is true; vectors lie in append-only files; the HNSW index can always be made again.
"""

from rag_infer.knowledge.base import KnowledgeBase
from rag_infer.knowledge.maintenance import CheckReport
from rag_infer.knowledge.passage import Passage, ScoredPassage
from rag_infer.knowledge.writer import Upserted

__all__ = ["CheckReport", "KnowledgeBase", "Passage", "ScoredPassage", "Upserted"]
