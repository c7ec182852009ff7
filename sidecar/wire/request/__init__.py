"""Requests of clients: their headers and bodies, checked and decoded."""
