"""Encoders: found by name, loaded right, each once. All that the author of one needs is imported from here."""

from mmembed.encoders.pool import SHARED, Encoders
from mmembed.encoders.registry import EncoderName, families, load_encoder, load_reranker, parse_name

__all__ = ["SHARED", "EncoderName", "Encoders", "families", "load_encoder", "load_reranker", "parse_name"]
