"""Whether answers are right, and how sure one can be of it: pure functions that trainer, server, plugins and commands share."""
