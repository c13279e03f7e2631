"""The facts behind three of the zoo's fields, typed in as plain tables."""
