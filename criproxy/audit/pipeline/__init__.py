"""From the event loop to encoded records: the observer of calls, and the encoder's thread."""
