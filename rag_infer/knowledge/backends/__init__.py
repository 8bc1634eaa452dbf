"""Knowledge bases on existing engines: PostgreSQL with pgvector, and Qdrant, behind one small protocol."""

from __future__ import annotations

from rag_infer.knowledge.backends.address import Address, is_address, parse_address
from rag_infer.knowledge.backends.protocol import BackendSettings, Found, Piece, SearchBackend

__all__ = ["Address", "BackendSettings", "Found", "Piece", "SearchBackend", "is_address", "parse_address"]
