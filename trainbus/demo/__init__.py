"""The guided tour: small tasks, a small model, a small server, all five plugins."""
