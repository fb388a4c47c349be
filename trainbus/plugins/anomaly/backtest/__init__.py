"""The detector over recorded histories: reading them, the findings, the score against labels, the drawing."""
