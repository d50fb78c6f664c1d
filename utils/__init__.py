"""What every training stage shares and no stage owns: arguments, files, checkpoints, metrics, ranks, sampling."""
