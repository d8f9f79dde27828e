"""CEL expressions: compiled, type-checked and evaluated."""
