"""Phase 3: obstructions found, matched with the true ones, followed over a cine, scored and drawn."""
