"""Answering with a model: generation, loading, and the server of ``trainbus serve``."""
