"""One client connection: relayed as bytes or by streams, held, slowed down, drained."""
