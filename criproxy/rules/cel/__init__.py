"""CEL expressions: their variables, compilation, type checking and evaluation."""
