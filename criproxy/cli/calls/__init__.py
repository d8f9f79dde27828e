"""Commands on calls: shown, reported, recorded and replayed."""
