"""The service: search over HTTP, a web page, OpenAI's and Cohere's embeddings API, and Qdrant's inference back end.

request -> doors (size, time, host, key, rate) -> a route -> engine (cache, micro-batches) -> answer
"""
