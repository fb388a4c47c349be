"""Notifications of alerts and ends of runs: desktop, webhook, and every service that apprise knows."""
