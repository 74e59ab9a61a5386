"""Responses: what the loop writes of one, and what every reader makes of it. Pure functions."""
