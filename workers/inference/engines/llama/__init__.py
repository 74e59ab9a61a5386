"""llama.cpp inside the worker: its files, its library, and the two languages between them."""
