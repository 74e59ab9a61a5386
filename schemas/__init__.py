"""What crosses a boundary: declarations and pure functions, no I/O."""
