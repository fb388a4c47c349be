"""Finds anomalies in steps, evals and samples, and says so by alerts."""
