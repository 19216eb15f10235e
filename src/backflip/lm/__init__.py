"""Language models: the second domain of the same method. A completion is a segment, two of a prompt are a query."""
