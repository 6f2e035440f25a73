"""The service: search over HTTP, a web page, OpenAI's and Cohere's embeddings API, and Qdrant's inference back end.

A request passes `middleware/`, reaches one of `routes/`, whose bodies are in `schemas/`, and its texts and pictures
are encoded by `mmembed.batching`. Begin with app.py, then one route.
"""
