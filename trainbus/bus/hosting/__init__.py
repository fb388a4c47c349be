"""Hosting: each plugin in a process of its own, and the supervisor that keeps broker and plugins alive."""
