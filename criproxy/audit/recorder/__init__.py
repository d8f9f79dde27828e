"""The recorder process: makes records of the workers' items and writes them to the sinks."""
