"""What the machine says of itself. Each reader gives what it knows, or raises `UnknownError` with the reason why it doesn't."""
