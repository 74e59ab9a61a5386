"""The parts of `jan bench`: an upstream, a load, the figures."""
