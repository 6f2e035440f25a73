"""A Qdrant server or cluster, and `:memory:` for tests."""
