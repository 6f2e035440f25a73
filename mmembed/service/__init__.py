"""The service: search over HTTP, a web page, OpenAI's and Cohere's embeddings API, and Qdrant's inference back end.

request -> what it passes -> a route -> engine -> answer. Begin with app.py, then one route, then engine.py.

process        serving.py (uvicorn, signals), heads.py (slow and malformed HTTP), app.py (what is opened, the routes),
               state.py (what every route works with), metrics.py, memory.py (given back after large pictures)
passes         edges.py (headers, errors), origins.py (Host, Origin), doors.py (keys, rate), limits.py (size, time)
routes         searching.py, classifying.py, indexing.py, listing.py, qdrant_inference.py, openai_api.py,
               cohere_api.py, web_page.py
their bodies   schemas.py and search_forms.py (search), label_schemas.py (labels), upload_forms.py (index),
               inference_inputs.py (Qdrant), content.py (embeddings APIs), facts.py (listing), pictures.py,
               documented.py (in the OpenAPI)
their work     ingestion.py, uploads.py, removals.py, writes.py (one at a time); fetching.py, addresses.py (pictures
               behind URLs); room.py (pixels of searches)
engine         engine.py, served.py (which encoders), inputs.py, batching.py (shared passes), passes.py, cache.py,
               orders.py and calls.py (who waits, who left), proxies.py (the same for threads)
answers        answers.py (JSON), errors.py (every error and its status)
"""
