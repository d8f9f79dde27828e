"""Changes of text files that leave everything else in them as it is."""
