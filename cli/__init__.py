"""The `jan` command: one module per verb, and the supervisor that runs the server."""
