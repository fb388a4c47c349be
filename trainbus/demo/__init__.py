"""The guided tour: small tasks, a small model, `trainbus serve`, all five plugins."""
