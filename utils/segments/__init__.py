"""Phase 2: from a model's map of names to answers, scores and pictures; the graph of a vessel tree."""
