"""The broker: takes events in, journals them, fans them out, answers questions about them."""
