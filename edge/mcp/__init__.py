"""This server's own tools, conversations and prompts for clients that speak MCP."""
