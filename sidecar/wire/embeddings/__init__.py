"""Answers of the embeddings API."""
