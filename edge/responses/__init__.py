"""Responses, as clients see them: prepared, read as events or whole, looked up."""
