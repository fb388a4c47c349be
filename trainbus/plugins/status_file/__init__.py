"""The plugin status_file: what a training does, as one small file that any script can read."""
