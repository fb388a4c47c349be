"""`trainbus exec`: any command, supervised and watched."""
