"""The JSON that requests and answers are made of."""
