"""What `trainbus exec` brings into the Python processes of a command, without a change to their files."""
