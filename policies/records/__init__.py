"""The record of a finished request, and the observers that receive it."""
