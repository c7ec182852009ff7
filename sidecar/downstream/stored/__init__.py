"""The routes of stored responses and conversations."""
