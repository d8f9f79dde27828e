"""Commands on a node: examined, moved over to criproxy and back."""
