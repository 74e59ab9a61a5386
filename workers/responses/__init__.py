"""The worker of the loop: it carries responses out, step by step and call by call."""
