"""OpenAI's Responses API: its events and answers, as the reader, the policies and an early end need them."""
