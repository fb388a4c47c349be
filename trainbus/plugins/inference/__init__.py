"""Examines each checkpoint on an OpenAI-compatible server."""
