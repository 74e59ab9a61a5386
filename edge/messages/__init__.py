"""Anthropic's Messages on top of chat runs: what is asked, what comes back, and its errors."""
