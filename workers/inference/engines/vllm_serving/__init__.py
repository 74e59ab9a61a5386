"""What the vllm engine consists of: the start of vLLM, and a run's way through it."""
