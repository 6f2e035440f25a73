"""Multimodal search for Qdrant."""

__version__ = "0.1.0"
