"""The knowledge base: passages, their vectors, and the search over them.

The SQLite record says what is true; vectors lie in append-only files; the HNSW index can always be made again.
"""

from rag_infer.knowledge.base import KnowledgeBase
from rag_infer.knowledge.check import CheckReport
from rag_infer.knowledge.chunk import ChunkConfig, Chunker, chunk_id
from rag_infer.knowledge.document import Document
from rag_infer.knowledge.passage import Passage, ScoredPassage
from rag_infer.knowledge.passage_tokens import PassageTokens
from rag_infer.knowledge.search import SearchResult
from rag_infer.knowledge.search_config import SearchConfig
from rag_infer.knowledge.transaction import Upserted

__all__ = [
    "CheckReport",
    "ChunkConfig",
    "Chunker",
    "Document",
    "KnowledgeBase",
    "Passage",
    "PassageTokens",
    "ScoredPassage",
    "SearchConfig",
    "SearchResult",
    "Upserted",
    "chunk_id",
]
