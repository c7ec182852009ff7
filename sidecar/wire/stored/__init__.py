"""Stored responses and conversations: the ids in requests and answers, and the routes that read them."""
