"""Networks: backbones, view encoder, fusion, heads and the models that the stage scripts train."""
