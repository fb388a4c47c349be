"""Watches the memory of host, training and GPUs."""
