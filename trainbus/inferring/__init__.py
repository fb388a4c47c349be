"""Asking models: a server or this machine, one question or a set, one model or two beside each other."""
