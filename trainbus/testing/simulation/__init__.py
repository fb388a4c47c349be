"""Thousands of seeded histories of the real parts under faults, judged by one checker."""
