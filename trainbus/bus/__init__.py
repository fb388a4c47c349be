"""The bus: vocabulary, sending side, broker, reading side, hosting."""
