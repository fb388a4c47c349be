"""Continuous training from a folder: files become jobs of a durable queue, and each job goes on with the same run."""
