"""Rules compiled for the methods that they match."""
