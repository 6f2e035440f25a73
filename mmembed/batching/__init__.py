"""Concurrent callers share forward passes and a cache; no HTTP in here."""
