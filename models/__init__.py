"""jan-tiny, the built-in demonstration model: its text, training, evaluation and export."""
