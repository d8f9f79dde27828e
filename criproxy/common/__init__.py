"""Small parts that many rooms use: files, text for a terminal, the commit, optional modules."""
