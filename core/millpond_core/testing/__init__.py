"""Doubles of the ports, in memory, for tests: they keep the ports' promises and can be told to fail."""
