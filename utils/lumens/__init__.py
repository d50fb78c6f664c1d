"""Phase 4: from a lumen's two maps to its walls and its measurement, and how that agrees with Medis."""
