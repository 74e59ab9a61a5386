"""Between a chat request and Anthropic's Messages: the request one way, the answer the other."""
